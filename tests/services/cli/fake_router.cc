#include "tests/services/cli/fake_router.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "scheduler/check.h"
#include "tests/testing/wait_for.h"

namespace conclave::testing {
namespace {

std::vector<uint32_t> IdsOf(const v1::Prompt& prompt) {
  if (prompt.has_tokens()) return {prompt.tokens().ids().begin(), prompt.tokens().ids().end()};
  std::vector<uint32_t> ids;
  for (const char c : prompt.text()) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

v1::Routing RoutingOf(size_t begin, size_t end) {
  v1::Routing routing;
  routing.set_layers(kFakeLayers);
  routing.set_top_k(kFakeTopK);
  routing.set_experts(kFakeExperts);
  for (uint32_t layer = 0; layer < kFakeLayers; ++layer) routing.add_layer_indices(layer + 1);
  for (size_t token = begin; token < end; ++token) {
    for (size_t layer = 0; layer < kFakeLayers; ++layer) {
      for (size_t choice = 0; choice < kFakeTopK; ++choice) {
        const auto slot = static_cast<uint16_t>((token + layer + choice) % kFakeExperts);
        const float weight = 0.5F / static_cast<float>(choice + 1);
        routing.mutable_slots()->append(reinterpret_cast<const char*>(&slot), sizeof(slot));
        routing.mutable_weights()->append(reinterpret_cast<const char*>(&weight), sizeof(weight));
      }
    }
  }
  return routing;
}

}  // namespace

class FakeRouter::Inference : public v1::Inference::Service {
 public:
  explicit Inference(FakeRouter& fake) : fake_(fake) {}

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        GenerateWriter* writer) override {
    ++fake_.calls_;
    return fake_.generate(*context, *request, *writer);
  }
  grpc::Status Chat(grpc::ServerContext* context, const v1::ChatRequest* request,
                    GenerateWriter* writer) override {
    ++fake_.calls_;
    return fake_.chat(*context, *request, *writer);
  }
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     ScoreWriter* writer) override {
    ++fake_.calls_;
    return fake_.score(*context, *request, *writer);
  }
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    fake_.on_tokenize(request->prompt());
    for (const uint32_t id : IdsOf(request->prompt())) {
      response->add_token_ids(id);
      response->add_tokens(std::string(1, static_cast<char>(id)));
    }
    return grpc::Status::OK;
  }
  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    for (const uint32_t id : request->token_ids()) {
      if (id > 255) return {grpc::StatusCode::INVALID_ARGUMENT, "no such token"};
      response->mutable_text()->push_back(static_cast<char>(id));
    }
    return grpc::Status::OK;
  }
  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    v1::Model& model = *response->add_models();
    model.set_name("fake");
    model.set_family("bytes");
    model.set_context_limit(kFakeContext);
    model.set_vocab_size(256);
    model.set_numerics("fake-v1");
    model.set_chat_problem("no template");
    return grpc::Status::OK;
  }

 private:
  FakeRouter& fake_;
};

class FakeRouter::Cluster : public v1::Cluster::Service {
 public:
  explicit Cluster(FakeRouter& fake) : fake_(fake) {}

  grpc::Status Status(grpc::ServerContext*, const v1::StatusRequest*,
                      v1::StatusResponse* response) override {
    *response = fake_.status;
    return grpc::Status::OK;
  }
  grpc::Status ListAdapters(grpc::ServerContext*, const v1::ListAdaptersRequest*,
                            v1::AdapterCatalogue* response) override {
    *response = fake_.catalogue;
    return grpc::Status::OK;
  }
  grpc::Status AddAdapter(grpc::ServerContext*, const v1::AddAdapterRequest* request,
                          v1::AdapterOperation* response) override {
    return fake_.operate(request, nullptr, *response);
  }
  grpc::Status RemoveAdapter(grpc::ServerContext*, const v1::RemoveAdapterRequest* request,
                             v1::AdapterOperation* response) override {
    return fake_.operate(nullptr, request, *response);
  }
  grpc::Status Residency(grpc::ServerContext*, const v1::ResidencyRequest*,
                         v1::ResidencyResponse* response) override {
    *response = fake_.residency;
    return grpc::Status::OK;
  }
  grpc::Status Apply(grpc::ServerContext*, const v1::ApplyRequest* request,
                     v1::ApplyResponse* response) override {
    response->set_plan(request->workers());
    response->set_epoch(fake_.status.epoch() + 1);
    return grpc::Status::OK;
  }

 private:
  FakeRouter& fake_;
};

FakeRouter::FakeRouter(const std::string& listen)
    : inference_(std::make_unique<Inference>(*this)), cluster_(std::make_unique<Cluster>(*this)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(inference_.get());
  builder.RegisterService(cluster_.get());
  server_ = builder.BuildAndStart();
  CONCLAVE_CHECK(server_ != nullptr && port_ != 0);
}

FakeRouter::~FakeRouter() { server_->Shutdown(std::chrono::system_clock::now()); }

std::string FakeRouter::address() const { return "127.0.0.1:" + std::to_string(port_); }

int FakeRouter::calls() const { return calls_; }

grpc::Status FakeRouter::GenerateAlphabet(grpc::ServerContext&, const v1::GenerateRequest& request,
                                          GenerateWriter& writer) {
  const uint32_t count = request.stopping().has_max_tokens() ? request.stopping().max_tokens() : 16;
  v1::GenerateResponse first;
  first.set_request_id(request.request_id().empty() ? "drawn" : request.request_id());
  first.set_seed(request.sampling().has_seed() ? request.sampling().seed() : 7);
  if (!writer.Write(first)) return grpc::Status::CANCELLED;
  for (uint32_t i = 0; i < count; ++i) {
    v1::GenerateResponse delta;
    delta.set_text(std::string(1, static_cast<char>(FakeToken(i))));
    delta.add_token_ids(FakeToken(i));
    if (request.has_logprobs()) {
      v1::TokenLogprob& logprob = *delta.add_logprobs();
      logprob.set_token_id(FakeToken(i));
      logprob.set_logprob(FakeLogprob(FakeToken(i)));
    }
    if (!writer.Write(delta)) return grpc::Status::CANCELLED;
  }
  v1::GenerateResponse last;
  last.set_finish_reason(v1::FINISH_REASON_LENGTH);
  last.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(IdsOf(request.prompt()).size()));
  last.mutable_usage()->set_completion_tokens(count);
  last.mutable_usage()->set_cached_prompt_tokens(
      static_cast<uint32_t>(request.cache_salt().size()));
  writer.Write(last);
  return grpc::Status::OK;
}

grpc::Status FakeRouter::ScoreBytes(grpc::ServerContext&, const v1::ScoreRequest& request,
                                    ScoreWriter& writer) {
  const std::vector<uint32_t> ids = IdsOf(request.prompt());
  if (ids.size() > kFakeContext) {
    return {grpc::StatusCode::INVALID_ARGUMENT,
            "prompt has " + std::to_string(ids.size()) + " tokens, the limit is 64"};
  }
  v1::ScoreResponse first;
  first.set_request_id("drawn");
  first.mutable_token_ids()->Add(ids.begin(), ids.end());
  if (request.routing()) *first.mutable_routing() = RoutingOf(0, 1);
  writer.Write(first);
  for (size_t begin = 1; begin < ids.size(); begin += 2) {
    const size_t end = std::min(begin + 2, ids.size());
    v1::ScoreResponse part;
    for (size_t i = begin; i < end; ++i) {
      v1::TokenLogprob& logprob = *part.add_logprobs();
      logprob.set_token_id(ids[i]);
      logprob.set_logprob(FakeLogprob(ids[i]));
    }
    if (request.routing()) *part.mutable_routing() = RoutingOf(begin, end);
    writer.Write(part);
  }
  v1::ScoreResponse last;
  last.set_done(true);
  writer.Write(last);
  return grpc::Status::OK;
}

grpc::Status FakeRouter::ChatEcho(grpc::ServerContext&, const v1::ChatRequest& request,
                                  GenerateWriter& writer) {
  const std::string& said = request.messages(request.messages_size() - 1).content();
  for (const char c : said) {
    v1::GenerateResponse delta;
    delta.set_text(std::string(1, c));
    delta.add_token_ids(static_cast<unsigned char>(c));
    if (!writer.Write(delta)) return grpc::Status::CANCELLED;
  }
  v1::GenerateResponse last;
  last.set_finish_reason(v1::FINISH_REASON_STOP);
  writer.Write(last);
  return grpc::Status::OK;
}

grpc::Status FakeRouter::GenerateOneThenHang(grpc::ServerContext& context,
                                             const v1::GenerateRequest&, GenerateWriter& writer) {
  v1::GenerateResponse delta;
  delta.set_text("a");
  delta.add_token_ids('a');
  writer.Write(delta);
  EXPECT_TRUE(WaitFor([&] { return context.IsCancelled(); }, "the call to be cancelled"));
  return grpc::Status::CANCELLED;
}

}  // namespace conclave::testing
