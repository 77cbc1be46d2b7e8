// Stories of one router on the loopback: real services and wire, workers without a model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <ostream>
#include <thread>

#include "grpcpp/generic/generic_stub.h"
#include "services/cluster_watch.h"
#include "services/grpc_status.h"
#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

TEST(Router, StreamsAndFinishes) {
  FakeWorker worker;
  TestRouter router({&worker});
  const Stream stream = router.Generate(TextRequest("hello", 20));
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, HashedText("hello", 1, 20));
  EXPECT_EQ(stream.tokens.size(), 20u);
  EXPECT_NE(stream.messages.front().request_id(), "");
  EXPECT_EQ(stream.messages.front().seed(), 1u);
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(stream.last.usage().prompt_tokens(), 5u);
  EXPECT_EQ(stream.last.usage().completion_tokens(), 20u);
  EXPECT_FALSE(stream.last.has_stop_token_id());
}

TEST(Router, DrawsASeedAndReportsIt) {
  FakeWorker worker;
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("hello", 20);
  request.mutable_sampling()->clear_seed();
  const Stream stream = router.Generate(request);
  ASSERT_TRUE(stream.messages.front().has_seed());
  EXPECT_EQ(stream.text, HashedText("hello", stream.messages.front().seed(), 20));
  EXPECT_NE(router.Generate(request).messages.front().seed(), stream.messages.front().seed());
}

TEST(Router, StopsAtTheModelsEndWithoutItsText) {
  FakeWorker worker({.token = Says("well.")});
  TestRouter router({&worker});
  const Stream stream = router.Generate(TextRequest("x", 100));
  EXPECT_EQ(stream.text, "well.");
  EXPECT_THAT(stream.tokens, ElementsAre('w', 'e', 'l', 'l', '.', kEos));
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stream.last.stop_token_id(), kEos);
}

TEST(Router, GoesPastTheModelsEndWhenTold) {
  FakeWorker worker({.token = Says("well.")});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 8);
  request.mutable_stopping()->set_ignore_eos(true);
  const Stream stream = router.Generate(request);
  EXPECT_EQ(stream.tokens.size(), 8u);
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST(Router, StopsAtAStopTokenOfTheRequest) {
  FakeWorker worker({.token = Says("abcdef")});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 100);
  request.mutable_stopping()->add_stop_token_ids('d');
  const Stream stream = router.Generate(request);
  EXPECT_EQ(stream.text, "abc");
  EXPECT_EQ(stream.last.stop_token_id(), static_cast<uint32_t>('d'));
}

TEST(Router, CutsTheTextAtAStopStringAndEndsTheSequence) {
  FakeWorker worker({.token = [](const v1::Submit&, uint32_t i) {
    const std::string text = "one two three ";
    return static_cast<unsigned char>(text[i % text.size()]);
  }});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 4000);
  request.mutable_stopping()->add_stop("two th");
  request.set_logprobs(0);
  const Stream stream = router.Generate(request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, "one ");
  EXPECT_EQ(stream.tokens.size(), 10u);
  EXPECT_EQ(stream.logprobs.size(), 10u);
  EXPECT_EQ(stream.last.stop_string(), "two th");
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stream.last.usage().completion_tokens(), 10u);
  EXPECT_TRUE(
      worker.WaitFor([](const auto& counts) { return counts.cancels == 1 && counts.live == 0; }));
}

TEST(Router, NeverSendsHalfACharacter) {
  const std::string text = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82z";
  FakeWorker worker({.token = Says(text)});
  TestRouter router({&worker});
  const Stream stream = router.Generate(TextRequest("x", 100));
  EXPECT_EQ(stream.text, text);
  for (const v1::GenerateResponse& message : stream.messages) {
    const std::string& piece = message.text();
    EXPECT_TRUE(piece.empty() || (static_cast<unsigned char>(piece[0]) & 0xc0) != 0x80) << piece;
  }
}

TEST(Router, ReplacesACharacterThatNeverEnds) {
  FakeWorker worker({.token = Says("ok\xe2\x82\xac")});
  TestRouter router({&worker});
  EXPECT_EQ(router.Generate(TextRequest("x", 4)).text, "ok\xef\xbf\xbd");
}

TEST(Router, SendsLogprobsWithTheirTokens) {
  FakeWorker worker;
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("hello", 9);
  request.set_logprobs(3);
  request.set_prompt_logprobs(true);
  const Stream stream = router.Generate(request);
  size_t prompt_logprobs = 0;
  for (const v1::GenerateResponse& message : stream.messages) {
    EXPECT_EQ(message.logprobs_size(), message.token_ids_size());
    prompt_logprobs += static_cast<size_t>(message.prompt_logprobs_size());
  }
  EXPECT_EQ(prompt_logprobs, 4u);
  ASSERT_EQ(stream.logprobs.size(), 9u);
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(stream.logprobs[i].token_id(), stream.tokens[i]);
    EXPECT_EQ(stream.logprobs[i].top_size(), 3);
  }
}

TEST(Router, ScoresAPrompt) {
  FakeWorker worker;
  TestRouter router({&worker});
  v1::ScoreRequest request;
  request.set_request_id("score-1");
  request.mutable_prompt()->set_text("hello");
  grpc::ClientContext context;
  const auto reader = router.stub().Score(&context, request);
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;
  std::string id;
  bool done = false;
  v1::ScoreResponse message;
  while (reader->Read(&message)) {
    EXPECT_FALSE(done);
    id += message.request_id();
    tokens.insert(tokens.end(), message.token_ids().begin(), message.token_ids().end());
    for (const auto& logprob : message.logprobs()) logprobs.push_back(logprob.logprob());
    done = message.done();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(done);
  EXPECT_EQ(id, "score-1");
  EXPECT_THAT(tokens, ElementsAre('h', 'e', 'l', 'l', 'o'));
  EXPECT_THAT(logprobs, ElementsAre(-0.5f, -1.0f, -1.5f, -2.0f));
}

TEST(Router, TokenizesAndDetokenizes) {
  FakeWorker worker;
  TestRouter router({&worker});
  for (const std::string& text : {std::string("a\0\xff<eos>", 8), std::string(9000, 'b')}) {
    v1::TokenizeRequest request;
    request.mutable_prompt()->set_text(text);
    v1::TokenizeResponse tokens;
    grpc::ClientContext context;
    ASSERT_TRUE(router.stub().Tokenize(&context, request, &tokens).ok());
    EXPECT_EQ(tokens.token_ids_size(), static_cast<int>(text.size()));
    EXPECT_EQ(tokens.tokens(1), text.substr(1, 1));
    v1::DetokenizeRequest back;
    *back.mutable_token_ids() = tokens.token_ids();
    v1::DetokenizeResponse response;
    grpc::ClientContext context2;
    ASSERT_TRUE(router.stub().Detokenize(&context2, back, &response).ok());
    EXPECT_EQ(response.text(), text);
  }
  v1::TokenizeRequest special;
  special.mutable_prompt()->set_text("a<eos>");
  special.mutable_prompt()->set_parse_special(true);
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(router.stub().Tokenize(&context, special, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre('a', kEos));
}

TEST(Router, ListsTheModelAndAnswersOnlyToItsName) {
  FakeWorker worker;
  TestRouter router({&worker}, {.model_name = "served"});
  v1::ListModelsResponse models;
  grpc::ClientContext context;
  ASSERT_TRUE(router.stub().ListModels(&context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), "served");
  EXPECT_EQ(models.models(0).context_limit(), 4096u);
  v1::GenerateRequest request = TextRequest("x", 1);
  request.set_model("served");
  EXPECT_TRUE(router.Generate(request).status.ok());
  request.set_model("other");
  const grpc::Status status = router.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "model 'other' is not served here, 'served' is");
}

TEST(Router, ServesSixtyFourMixedRequestsAsIfAlone) {
  FakeWorker worker;
  TestRouter router({&worker});
  std::vector<std::thread> clients;
  std::atomic<int> good = 0;
  for (int i = 0; i < 64; ++i) {
    clients.emplace_back([&, i] {
      const std::string prompt = "prompt " + std::to_string(i);
      v1::GenerateRequest request = TextRequest(prompt, 1 + static_cast<uint32_t>(i) * 3);
      request.mutable_sampling()->set_seed(static_cast<uint64_t>(i) % 5);
      if (i % 2 == 0) request.set_logprobs(static_cast<uint32_t>(i) % 20);
      const Stream stream = router.Generate(request);
      const auto expected =
          HashedText(prompt, static_cast<uint64_t>(i) % 5, 1 + static_cast<uint32_t>(i) * 3);
      good += stream.status.ok() && stream.text == expected &&
              stream.last.finish_reason() == v1::FINISH_REASON_LENGTH;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 64);
  EXPECT_EQ(worker.counts().live, 0u);
}

TEST(Router, SpreadsRequestsOverWorkers) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second});
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] { EXPECT_TRUE(router.Generate(TextRequest("x", 4)).status.ok()); });
  }
  const auto half = [](const auto& counts) { return counts.live == 4; };
  EXPECT_TRUE(first.WaitFor(half));
  EXPECT_TRUE(second.WaitFor(half));
  first.SetManual(false);
  second.SetManual(false);
  for (std::thread& client : clients) client.join();
}

TEST(Router, RefusesALiveRequestId) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 2);
  request.set_request_id("same");
  std::thread first([&] { EXPECT_TRUE(router.Generate(request).status.ok()); });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  EXPECT_EQ(router.Generate(request).status.error_code(), grpc::ALREADY_EXISTS);
  worker.SetManual(false);
  first.join();
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  EXPECT_TRUE(router.Generate(request).status.ok());
}

TEST(Router, CancelsAtTheWorkerWhenTheClientLeaves) {
  FakeWorker worker({.step_time = 1ms});
  TestRouter router({&worker});
  grpc::ClientContext context;
  const auto reader = router.stub().Generate(&context, TextRequest("x", 4000));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 0; }));
  EXPECT_EQ(worker.counts().cancels, 1u);
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

TEST(Router, LeavesNothingBehindAfterManyCancels) {
  FakeWorker worker;
  TestRouter router({&worker});
  for (uint32_t i = 0; i < 200; ++i) {
    grpc::ClientContext context;
    const auto reader = router.stub().Generate(&context, TextRequest("x", 4000));
    v1::GenerateResponse message;
    for (uint32_t n = 0; n < i % 7; ++n) reader->Read(&message);
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  }
  EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 0; }));
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  const auto stats = router.frontend().stats();
  EXPECT_EQ(stats.requests + stats.preparing + stats.waiting + stats.running, 0);
  EXPECT_EQ(stats.tokens, 0);
}

TEST(Router, PassesTheDeadlineOnAndKeepsIt) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  std::thread client([&] {
    const Stream stream = router.Generate(TextRequest("x", 10), 300ms);
    EXPECT_EQ(stream.status.error_code(), grpc::DEADLINE_EXCEEDED);
  });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.submits == 1; }));
  // gRPC rounds a deadline up on its way.
  EXPECT_LE(worker.counts().last_timeout_us.value_or(UINT64_MAX), 320'000u);
  client.join();
  EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 0; }));
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

TEST(Router, NeverStartsWhatWaitedPastItsDeadline) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker}, {.admission = {.home = {.requests = 1}}});
  std::thread first([&] { EXPECT_TRUE(router.Generate(TextRequest("x", 2)).status.ok()); });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  const grpc::Status status = router.Generate(TextRequest("y", 2), 100ms).status;
  EXPECT_EQ(status.error_code(), grpc::DEADLINE_EXCEEDED);
  // The client's clock may be a little ahead of the router's.
  while (router.frontend().stats().requests > 1) std::this_thread::yield();
  worker.SetManual(false);
  first.join();
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  EXPECT_EQ(worker.counts().submits, 1u);
}

TEST(Router, PausesAReaderThatIsSlowAndDelaysNobodyElse) {
  FakeWorker worker;
  TestRouter router({&worker});
  const auto idle_channel = router.NewChannel();
  const auto idle_stub = v1::Inference::NewStub(idle_channel);
  v1::GenerateRequest request = TextRequest("slow", 4000);
  request.set_logprobs(20);
  grpc::ClientContext context;
  const auto reader = idle_stub->Generate(&context, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.paused == 1; }));

  const Stream other = router.Generate(TextRequest("hello", 500));
  EXPECT_EQ(other.text, HashedText("hello", 1, 500));
  EXPECT_EQ(worker.counts().paused, 1u);

  const double pending = router.Metric("conclave_router_pending_bytes_max");
  EXPECT_GT(pending, 12 << 10);
  EXPECT_LE(pending, 32 << 10);

  const Stream slow = TestRouter::ReadAll(*reader);
  ASSERT_TRUE(slow.status.ok()) << slow.status.error_message();
  EXPECT_EQ(slow.text, HashedText("slow", 1, 4000));
  EXPECT_EQ(slow.logprobs.size(), 4000u);
}

TEST(Router, GivesUpAReaderThatReadsNothing) {
  FakeWorker worker;
  services::Frontend::Options options;
  options.request.stall = 300ms;
  TestRouter router({&worker}, options);
  v1::GenerateRequest request = TextRequest("slow", 4000);
  request.set_logprobs(20);
  grpc::ClientContext context;
  const auto reader = router.stub().Generate(&context, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& c) { return c.submits == 1 && c.live == 0; }));
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  const Stream stream = TestRouter::ReadAll(*reader);
  EXPECT_EQ(stream.status.error_code(), grpc::RESOURCE_EXHAUSTED) << stream.status.error_message();
  EXPECT_THAT(stream.status.error_message(), HasSubstr("does not read"));
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
}

TEST(Router, RefusesOverloadAtOnceWhileTheAdmittedFinish) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker}, {.admission = {.max_waiting = 4, .home = {.requests = 4}}});
  std::atomic<int> finished = 0;
  std::vector<std::thread> admitted;
  for (int i = 0; i < 8; ++i) {
    admitted.emplace_back([&] { finished += router.Generate(TextRequest("x", 5)).status.ok(); });
    ASSERT_TRUE(worker.WaitFor(
        [&](const auto& counts) { return counts.live == std::min<size_t>(i + 1, 4); }));
  }
  while (router.frontend().stats().waiting < 4) std::this_thread::yield();

  std::vector<double> refusals_ms;
  for (int i = 0; i < 200; ++i) {
    grpc::ClientContext context;
    const auto start = std::chrono::steady_clock::now();
    const auto reader = router.stub().Generate(&context, TextRequest("x", 5));
    const grpc::Status status = TestRouter::ReadAll(*reader).status;
    refusals_ms.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
            .count());
    ASSERT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
    EXPECT_EQ(status.error_message(), "4 requests wait for a worker, the limit");
    ASSERT_TRUE(services::RetryPushback(context));
    EXPECT_GE(*services::RetryPushback(context), 100ms);
  }
  std::sort(refusals_ms.begin(), refusals_ms.end());
  EXPECT_LE(refusals_ms[197], 50.0);

  worker.SetManual(false);
  for (std::thread& client : admitted) client.join();
  EXPECT_EQ(finished, 8);
}

TEST(Router, BatchesWhatIsAskedMeanwhile) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  std::vector<std::thread> clients;
  for (int i = 0; i < 48; ++i) {
    clients.emplace_back([&] { EXPECT_TRUE(router.Generate(TextRequest("x", 4)).status.ok()); });
  }
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 48; }));
  EXPECT_LE(worker.counts().messages, 48u);
  worker.SetManual(false);
  for (std::thread& client : clients) client.join();
}

TEST(Router, DrainsByFinishingWhatRuns) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  std::thread running([&] {
    const Stream stream = router.Generate(TextRequest("hello", 50));
    EXPECT_TRUE(stream.status.ok());
    EXPECT_EQ(stream.text, HashedText("hello", 1, 50));
  });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  router.frontend().Drain();
  router.WaitReady(false);
  EXPECT_EQ(router.Generate(TextRequest("x", 1)).status.error_code(), grpc::UNAVAILABLE);
  EXPECT_FALSE(router.frontend().WaitIdle(0ms));
  worker.SetManual(false);
  running.join();
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

TEST(Router, SaysSoWithoutAWorker) {
  TestRouter router({});
  const Stream stream = router.Generate(TextRequest("x", 1));
  EXPECT_EQ(stream.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(stream.status.error_message(), HasSubstr("no worker is ready"));
}

TEST(Router, EndsWhatALostWorkerHadBegunAndServesAgainWhenItIsBack) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  std::thread client([&] {
    const Stream stream = router.Generate(TextRequest("x", 50));
    EXPECT_EQ(stream.status.error_code(), grpc::UNAVAILABLE) << stream.status.error_message();
    EXPECT_EQ(stream.tokens.size(), 1u);
    EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
  });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  worker.Step();
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.tokens == 1; }));
  // The router has to have the token, or the request would only move.
  while (router.Metric("vllm:time_to_first_token_seconds") == 0) std::this_thread::yield();
  worker.Crash();
  client.join();
  router.WaitReady(false);
  worker.Revive();
  router.WaitReady(true);
  worker.SetManual(false);
  EXPECT_EQ(router.Generate(TextRequest("x", 3)).text, HashedText("x", 1, 3));
}

TEST(Router, MovesWhatHadNotBegunToAnotherWorker) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second});
  std::vector<std::thread> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back(
        [&] { EXPECT_EQ(router.Generate(TextRequest("x", 5)).text, HashedText("x", 1, 5)); });
  }
  ASSERT_TRUE(first.WaitFor([](const auto& counts) { return counts.live == 3; }));
  ASSERT_TRUE(second.WaitFor([](const auto& counts) { return counts.live == 3; }));
  first.Crash();
  ASSERT_TRUE(second.WaitFor([](const auto& counts) { return counts.live == 6; }));
  second.SetManual(false);
  for (std::thread& client : clients) client.join();
}

TEST(Router, GivesADrainingWorkerNothingNew) {
  FakeWorker first({.id = "a"}), second({.id = "b"});
  TestRouter router({&first, &second});
  first.Drain();
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(router.Generate(TextRequest("x", 2)).status.ok());
  }
  EXPECT_GE(second.counts().submits, 18u);
}

// A scheduler that says one thing and can be shut.
class FakeScheduler : public v1::Cluster::CallbackService {
 public:
  explicit FakeScheduler(v1::ClusterView view) : view_(std::move(view)) {
    auto server = services::Server::Start({}, services::Credentials(),
                                          {{v1::Cluster::service_full_name(), this}});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void Shut() { server_.reset(); }
  std::string address() const { return server_->address().ToString(); }

  grpc::ServerWriteReactor<v1::ClusterView>* Watch(grpc::CallbackServerContext*,
                                                   const v1::WatchRequest*) override {
    class Watcher : public grpc::ServerWriteReactor<v1::ClusterView> {
     public:
      explicit Watcher(const v1::ClusterView& view) : view_(view) { StartWrite(&view_); }
      void OnCancel() override { Finish(grpc::Status::CANCELLED); }
      void OnDone() override { delete this; }

     private:
      const v1::ClusterView view_;
    };
    return new Watcher(view_);
  }
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                   v1::StatusResponse* response) override {
    response->set_epoch(view_.epoch());
    response->mutable_scheduler()->set_pid(4711);
    *response->mutable_workers() = view_.workers();
    auto* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const v1::ClusterView view_;
  std::unique_ptr<services::Server> server_;
};

TEST(Router, ServesOnAndAnswersFromItsViewWithoutTheScheduler) {
  FakeWorker worker;
  v1::ClusterView view;
  view.set_epoch(7);
  v1::WorkerInfo* const info = view.add_workers();
  info->set_id("worker-1");
  info->set_address(worker.address());
  info->set_state(v1::WORKER_STATE_READY);
  FakeScheduler scheduler(view);
  TestRouter router({}, {}, scheduler.address());
  services::ClusterWatch watch(
      {}, services::MakeChannel(scheduler.address(), {}),
      [&](const v1::ClusterView& seen) { router.frontend().SetView(seen); });
  router.WaitReady(true);
  EXPECT_TRUE(router.Generate(TextRequest("x", 3)).status.ok());

  const auto stub = v1::Cluster::NewStub(router.NewChannel());
  const auto status = [&] {
    v1::StatusResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(stub->Status(&context, {}, &response).ok());
    return response;
  };
  EXPECT_EQ(status().scheduler().pid(), 4711);
  EXPECT_NE(status().router().pid(), 0);

  scheduler.Shut();
  while (watch.connected()) std::this_thread::yield();
  EXPECT_EQ(router.Generate(TextRequest("x", 3)).text, HashedText("x", 1, 3));
  const v1::StatusResponse alone = status();
  EXPECT_FALSE(alone.has_scheduler());
  EXPECT_EQ(alone.epoch(), 7u);
  ASSERT_EQ(alone.workers_size(), 1);
  EXPECT_EQ(alone.workers(0).id(), "worker-1");
  EXPECT_EQ(alone.workers(0).model().name(), "tiny");
}

TEST(Router, KeepsAWorkerTheViewForgotAsLongAsItsLinkHolds) {
  FakeWorker worker;
  TestRouter router({});
  v1::ClusterView view;
  view.add_workers()->set_address(worker.address());
  router.frontend().SetView(view);
  router.WaitReady(true);
  router.frontend().SetView({});
  EXPECT_TRUE(router.Generate(TextRequest("x", 3)).status.ok());
  worker.Crash();
  router.WaitReady(false);
}

// One bad request, sent over the wire.
struct BadRequest {
  const char* name;
  std::function<void(v1::GenerateRequest&)> change;
  std::string message;

  friend std::ostream& operator<<(std::ostream& out, const BadRequest& bad) {
    return out << bad.name;
  }
};

class RouterRefuses : public ::testing::TestWithParam<BadRequest> {
 protected:
  static void SetUpTestSuite() {
    worker_ = new FakeWorker({.context_limit = 64});
    services::Frontend::Options options;
    options.limits.prompt_bytes = 100;
    router_ = new TestRouter({worker_}, options);
  }
  static void TearDownTestSuite() {
    delete router_;
    delete worker_;
  }
  static FakeWorker* worker_;
  static TestRouter* router_;
};
FakeWorker* RouterRefuses::worker_ = nullptr;
TestRouter* RouterRefuses::router_ = nullptr;

TEST_P(RouterRefuses, WithInvalidArgument) {
  v1::GenerateRequest request = TextRequest("hello", 4);
  GetParam().change(request);
  const Stream stream = router_->Generate(request);
  EXPECT_EQ(stream.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(stream.status.error_message(), HasSubstr(GetParam().message));
  EXPECT_TRUE(stream.messages.empty());
  EXPECT_TRUE(router_->frontend().WaitIdle(10s));
  EXPECT_EQ(worker_->counts().submits, 0u);
}

using Q = v1::GenerateRequest&;
INSTANTIATE_TEST_SUITE_P(
    All, RouterRefuses,
    ::testing::Values(
        BadRequest{"NoPrompt", [](Q q) { q.clear_prompt(); }, "prompt is missing"},
        BadRequest{"EmptyText", [](Q q) { q.mutable_prompt()->set_text(""); },
                   "prompt has no tokens"},
        BadRequest{"EmptyTokens", [](Q q) { q.mutable_prompt()->mutable_tokens(); },
                   "prompt has no tokens"},
        BadRequest{"LongText", [](Q q) { q.mutable_prompt()->set_text(std::string(101, 'a')); },
                   "prompt.text has 101 bytes, the limit is 100"},
        BadRequest{"FullContext", [](Q q) { q.mutable_prompt()->set_text(std::string(64, 'a')); },
                   "prompt has 64 tokens, the limit is 63 (the model's context is 64)"},
        BadRequest{"ForeignToken", [](Q q) { q.mutable_prompt()->mutable_tokens()->add_ids(257); },
                   "prompt.tokens[0] is 257, the vocabulary has 257 tokens"},
        BadRequest{"Temperature", [](Q q) { q.mutable_sampling()->set_temperature(-1); },
                   "sampling.temperature"},
        BadRequest{"TopP", [](Q q) { q.mutable_sampling()->set_top_p(0); }, "sampling.top_p"},
        BadRequest{"TopK", [](Q q) { q.mutable_sampling()->set_top_k(UINT32_MAX); },
                   "sampling.top_k"},
        BadRequest{"MaxTokens", [](Q q) { q.mutable_stopping()->set_max_tokens(0); },
                   "stopping.max_tokens is 0"},
        BadRequest{"StopEmpty", [](Q q) { q.mutable_stopping()->add_stop(""); },
                   "stopping.stop[0] is empty"},
        BadRequest{"StopToken", [](Q q) { q.mutable_stopping()->add_stop_token_ids(9999); },
                   "stopping.stop_token_ids[0] is 9999"},
        BadRequest{"Logprobs", [](Q q) { q.set_logprobs(21); }, "logprobs is 21, the limit is 20"},
        BadRequest{"RequestId", [](Q q) { q.set_request_id("a/b"); },
                   "request_id has a character"}),
    [](const auto& row) { return row.param.name; });

TEST(Router, TakesAPromptThatLeavesRoomForOneToken) {
  FakeWorker worker({.context_limit = 64});
  TestRouter router({&worker});
  const Stream stream = router.Generate(TextRequest(std::string(63, 'a'), 100));
  EXPECT_EQ(stream.tokens.size(), 1u);
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_LENGTH);
}

// Sends bytes that are no message.
grpc::Status SendRaw(TestRouter& router, const std::string& method, const std::string& bytes) {
  grpc::GenericStub stub(router.NewChannel());
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  std::mutex mutex;
  std::condition_variable done;
  std::optional<grpc::Status> status;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &request, &response,
                 [&](grpc::Status ended) {
                   std::lock_guard lock(mutex);
                   status = std::move(ended);
                   done.notify_all();
                 });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return status.has_value(); });
  return *status;
}

TEST(Router, CallsMalformedMessagesInvalid) {
  FakeWorker worker;
  TestRouter router({&worker});
  const std::string not_utf8("\x0a\x02\xff\xfe", 4);  // request_id
  const std::string cut("\x22\x7f", 2);               // a prompt of 127 bytes that are not there
  const std::string varint(11, '\xff');
  for (const std::string& bytes : {not_utf8, cut, varint}) {
    for (const char* const method : {"Generate", "Score", "Tokenize", "Detokenize", "ListModels"}) {
      if (bytes == not_utf8 && method != std::string("Generate") && method != std::string("Score"))
        continue;
      const grpc::Status status =
          SendRaw(router, std::string("/conclave.v1.Inference/") + method, bytes);
      EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT)
          << method << ": " << status.error_message();
    }
  }
  EXPECT_TRUE(router.Generate(TextRequest("x", 2)).status.ok());
}

TEST(Router, TokenisesLongPromptsElsewhereAndRefusesTooManyOfThem) {
  FakeWorker worker({.context_limit = 1 << 20});
  services::Frontend::Options options;
  options.tokenize_queue = 1;
  options.tokenize_inline_bytes = 10;
  TestRouter router({&worker}, options);
  std::atomic<int> good = 0, refused = 0, other = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back([&] {
      const Stream stream = router.Generate(TextRequest(std::string(60000, 'a'), 2));
      const auto code = stream.status.error_code();
      ++(stream.status.ok() ? good : code == grpc::RESOURCE_EXHAUSTED ? refused : other);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(other, 0);
  EXPECT_GE(good, 1);
  EXPECT_EQ(good + refused, 12);
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

}  // namespace
}  // namespace conclave::testing
