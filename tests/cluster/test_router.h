#pragma once
// A router in this process: the real frontend and services on a loopback port, with the tokenizer
// whose ids are bytes.

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "conclave/v1/cluster.grpc.pb.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "services/frontend.h"
#include "services/inference_service.h"
#include "services/router_cluster_service.h"
#include "services/server.h"
#include "tests/cluster/fake_worker.h"
#include "tests/router/tiny_tokenizer.h"
#include "tests/testing/wait_for.h"

namespace conclave::testing {

// A whole stream as its client saw it.
struct Stream {
  grpc::Status status;
  std::vector<v1::GenerateResponse> messages;
  std::string text;
  std::vector<uint32_t> tokens;
  std::vector<v1::TokenLogprob> logprobs;
  v1::GenerateResponse last;  // the last message
};

inline v1::GenerateRequest TextRequest(const std::string& text, uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_prompt()->set_text(text);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_seed(1);
  return request;
}

class TestRouter {
 public:
  explicit TestRouter(const std::vector<FakeWorker*>& workers,
                      const services::Frontend::Options& options = {},
                      const std::string& scheduler = "",
                      services::Frontend::Templates templates = nullptr,
                      router::AdapterNames adapters = {})
      : frontend_(options, TinyTokenizer(), credentials_, std::move(templates),
                  std::move(adapters)),
        inference_(frontend_, services::SingleTenant(credentials_)),
        cluster_({}, frontend_,
                 scheduler.empty() ? nullptr : services::MakeChannel(scheduler, credentials_),
                 services::SingleTenant(credentials_)) {
    auto server = services::Server::Start({}, credentials_,
                                          {{v1::Inference::service_full_name(), &inference_},
                                           {v1::Cluster::service_full_name(), &cluster_}});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    frontend_.OnReady([this](bool ready) { SetReady(ready); });
    for (FakeWorker* const worker : workers) frontend_.AddWorker(worker->address());
    const auto ready = [&] { return Metric("conclave_router_workers_ready"); };
    EXPECT_TRUE(WaitFor([&] { return ready() >= static_cast<double>(workers.size()); },
                        "the router's workers to be ready"));
    stub_ = v1::Inference::NewStub(NewChannel());
  }
  ~TestRouter() {
    server_->Shutdown(std::chrono::milliseconds(0));
    frontend_.OnReady({});
  }

  services::Frontend& frontend() { return frontend_; }
  services::Server& server() { return *server_; }
  v1::Inference::Stub& stub() { return *stub_; }
  std::shared_ptr<grpc::Channel> NewChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // What a client takes in without reading stays at HTTP/2's 64 KiB.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    return grpc::CreateCustomChannel(server_->address().ToString(),
                                     grpc::InsecureChannelCredentials(), arguments);
  }

  // The first series of a gauge, or the count of a histogram.
  double Metric(const std::string& name) const {
    services::MetricsWriter writer;
    frontend_.WriteMetrics(writer);
    for (const auto& family : writer.Take()) {
      if (family.name != name) continue;
      const bool histogram = family.type == prometheus::MetricType::Histogram;
      const auto& metric = family.metric.at(0);
      return histogram ? static_cast<double>(metric.histogram.sample_count) : metric.gauge.value;
    }
    ADD_FAILURE() << "no metric " << name;
    return 0;
  }

  // Waits until the router can take requests, or cannot.
  void WaitReady(bool ready) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(30), [&] { return ready_ == ready; }));
  }

  Stream Generate(const v1::GenerateRequest& request,
                  std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    const auto reader = stub_->Generate(&context, request);
    return ReadAll(*reader);
  }

  static Stream ReadAll(grpc::ClientReader<v1::GenerateResponse>& reader) {
    Stream stream;
    v1::GenerateResponse message;
    while (reader.Read(&message)) {
      stream.text += message.text();
      stream.tokens.insert(stream.tokens.end(), message.token_ids().begin(),
                           message.token_ids().end());
      stream.logprobs.insert(stream.logprobs.end(), message.logprobs().begin(),
                             message.logprobs().end());
      stream.messages.push_back(message);
    }
    if (!stream.messages.empty()) stream.last = stream.messages.back();
    stream.status = reader.Finish();
    return stream;
  }

 private:
  void SetReady(bool ready) {
    server_->SetServing(ready);
    std::lock_guard lock(mutex_);
    ready_ = ready;
    changed_.notify_all();
  }

  services::Credentials credentials_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = false;
  services::Frontend frontend_;
  services::InferenceService inference_;
  services::RouterClusterService cluster_;
  std::unique_ptr<services::Server> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

// What FakeWorker samples by default for a text prompt.
inline std::string HashedText(const std::string& prompt, uint64_t seed, uint32_t tokens) {
  v1::Submit submit;
  submit.set_seed(seed);
  for (const char c : prompt) submit.add_prompt(static_cast<unsigned char>(c));
  std::string text;
  for (uint32_t i = 0; i < tokens; ++i) {
    text += static_cast<char>(FakeWorker::HashedToken(submit, i));
  }
  return text;
}

// Samples the bytes of `text`, then the end-of-sequence token.
inline std::function<uint32_t(const v1::Submit&, uint32_t)> Says(const std::string& text) {
  return [text](const v1::Submit&, uint32_t index) {
    return index < text.size() ? static_cast<unsigned char>(text[index]) : kEos;
  };
}

}  // namespace conclave::testing
