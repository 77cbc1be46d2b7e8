// How a router stands many clients, slow ones, and those that leave.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "services/grpc_status.h"
#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

TEST(Router, RefusesALiveRequestIdWithAnotherBody) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 2);
  request.set_request_id("same");
  std::thread first([&] { EXPECT_TRUE(router.Generate(request).status.ok()); });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  v1::GenerateRequest other = TextRequest("y", 3);
  other.set_request_id("same");
  EXPECT_EQ(router.Generate(other).status.error_code(), grpc::ALREADY_EXISTS);
  worker.SetManual(false);
  first.join();
  EXPECT_TRUE(router.Generate(request).status.ok());
}

TEST(Router, TakesARequestIdAgainAtOnceWhenItsClientHasTheEnd) {
  FakeWorker worker;
  TestRouter router({&worker});
  v1::GenerateRequest alone = TextRequest("x", 2);
  alone.set_request_id("same");
  v1::GenerateRequest three = alone;
  three.set_n(3);
  v1::GenerateRequest bad = alone;
  bad.mutable_prompt()->set_text("");
  for (int i = 0; i < 100; ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(router.Generate(alone).status.error_message(), "");
    EXPECT_EQ(router.Generate(three).status.error_message(), "");
    EXPECT_EQ(router.Generate(bad).status.error_code(), grpc::INVALID_ARGUMENT);
  }
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
    // Longer than a request takes to the worker, however busy the machine is.
    const Stream stream = router.Generate(TextRequest("x", 10), 2s);
    EXPECT_EQ(stream.status.error_code(), grpc::DEADLINE_EXCEEDED);
  });
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.submits == 1; }));
  // gRPC rounds a deadline up on its way.
  EXPECT_LE(worker.counts().last_timeout_us.value_or(UINT64_MAX), 2'020'000u);
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
  EXPECT_TRUE(WaitFor([&] { return router.frontend().stats().requests == 1; },
                      "the router to end the late request"));
  worker.SetManual(false);
  first.join();
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  EXPECT_EQ(worker.counts().submits, 1u);
}

// Steps a worker until so many of its sequences are paused. Like a real one, it is slower than its
// link: what comes after the pause was said is what was sampled while the word was on its way, and
// not whatever a link can hold.
void StepUntilPaused(const TestRouter& router, FakeWorker& worker, size_t count) {
  const auto all_came = [&] {
    const double came = router.Metric("vllm:time_to_first_token_seconds") +
                        router.Metric("vllm:inter_token_latency_seconds");
    return came == static_cast<double>(worker.counts().tokens);
  };
  while (worker.counts().paused < count) {
    ASSERT_GE(worker.counts().live, count) << "one ended and was never paused";
    worker.Step();
    ASSERT_TRUE(WaitFor(all_came, "the router to have every token"));
  }
}

TEST(Router, PausesAReaderThatIsSlowAndDelaysNobodyElse) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  const auto idle_channel = router.NewChannel();
  const auto idle_stub = v1::Inference::NewStub(idle_channel);
  v1::GenerateRequest request = TextRequest("slow", 4000);
  request.set_logprobs(20);
  grpc::ClientContext context;
  const auto reader = idle_stub->Generate(&context, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  ASSERT_NO_FATAL_FAILURE(StepUntilPaused(router, worker, 1));
  worker.SetManual(false);

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

TEST(Router, LeavesThePlacesOfThoseWhoDoNotReadToOthers) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker}, {.admission = {.home = {.requests = 2}}});
  v1::GenerateRequest request = TextRequest("slow", 4000);
  request.set_logprobs(20);
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (size_t i = 1; i <= 4; ++i) {
    stubs.push_back(v1::Inference::NewStub(router.NewChannel()));
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stubs.back()->Generate(contexts.back().get(), request));
    ASSERT_TRUE(worker.WaitFor([&](const auto& counts) { return counts.live == i; }));
    ASSERT_NO_FATAL_FAILURE(StepUntilPaused(router, worker, i));
  }
  worker.SetManual(false);
  EXPECT_EQ(router.Generate(TextRequest("hello", 500)).text, HashedText("hello", 1, 500));
  EXPECT_EQ(worker.counts().paused, 4u);
  for (const auto& reader : readers) {
    const Stream slow = TestRouter::ReadAll(*reader);
    EXPECT_EQ(slow.text, HashedText("slow", 1, 4000));
  }
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
  EXPECT_TRUE(
      WaitFor([&] { return router.frontend().stats().waiting == 4; }, "four requests to wait"));

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
  // No step is done meanwhile, so none of them can have waited for a place. The median tells a
  // pause of the router's own from a machine that is busy.
  std::nth_element(refusals_ms.begin(), refusals_ms.begin() + 100, refusals_ms.end());
  EXPECT_LE(refusals_ms[100], 50.0);

  worker.SetManual(false);
  for (std::thread& client : admitted) client.join();
  EXPECT_EQ(finished, 8);
}

TEST(Router, SubmitsWhatAGrantLetsGoInOneMessage) {
  FakeWorker worker({.manual = true, .granted = 0});
  TestRouter router({&worker});
  std::vector<std::thread> clients;
  for (int i = 0; i < 48; ++i) {
    clients.emplace_back([&] { EXPECT_TRUE(router.Generate(TextRequest("x", 4)).status.ok()); });
  }
  EXPECT_TRUE(WaitFor([&] { return router.Metric("conclave_router_waiting_for_credit") == 48; },
                      "all to wait for a grant"));
  const uint64_t before = worker.counts().messages;
  worker.Grant(48);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 48; }));
  EXPECT_EQ(worker.counts().messages - before, 1u);
  worker.SetManual(false);
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace conclave::testing
