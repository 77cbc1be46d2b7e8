// What a client sees when its worker is lost: nothing but time.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

// A client whose stream runs on a thread of its own.
class Client {
 public:
  Client(TestRouter& router, const v1::GenerateRequest& request,
         std::chrono::milliseconds timeout = 60s)
      : thread_(
            [this, &router, request, timeout] { stream_ = router.Generate(request, timeout); }) {}
  ~Client() {
    if (thread_.joinable()) thread_.join();
  }
  const Stream& Join() {
    thread_.join();
    return stream_;
  }

 private:
  Stream stream_;
  std::thread thread_;
};

// Without a deadline of its own.
v1::GenerateRequest Hello(uint32_t tokens) { return TextRequest("hello", tokens); }

// One token for the one sequence that `worker` has, and the router has heard of it.
void StepAndHear(FakeWorker& worker, TestRouter& router, uint64_t tokens) {
  const auto heard = [&] {
    return router.Metric("vllm:time_to_first_token_seconds") +
           router.Metric("vllm:inter_token_latency_seconds");
  };
  while (heard() < static_cast<double>(tokens)) {
    const double before = heard();
    const uint64_t made = worker.counts().tokens;
    worker.Step();
    if (worker.counts().tokens == made) continue;  // the last token is still on its way
    ASSERT_TRUE(WaitFor([&] { return heard() > before; }, "the router to have the token"));
  }
}

void ExpectWhole(const Stream& stream, uint32_t tokens) {
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, HashedText("hello", 1, tokens));
  EXPECT_EQ(stream.tokens.size(), tokens);
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(stream.last.usage().completion_tokens(), tokens);
  EXPECT_EQ(stream.last.usage().prompt_tokens(), 5u);
}

TEST(RouterResume, GoesOnOnAnotherWorkerWhereItWas) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second});
  v1::GenerateRequest request = Hello(12);
  request.set_logprobs(0);
  Client client(router, request);
  const auto has_one = [](const auto& counts) { return counts.live == 1; };
  ASSERT_TRUE(WaitFor([&] { return has_one(first.counts()) || has_one(second.counts()); },
                      "a worker to have the sequence"));
  FakeWorker& home = has_one(first.counts()) ? first : second;
  FakeWorker& other = has_one(first.counts()) ? second : first;
  StepAndHear(home, router, 3);
  home.Crash();
  ASSERT_TRUE(other.WaitFor(has_one));
  const v1::Submit moved = other.counts().last_submit;
  const std::string text = HashedText("hello", 1, 3);
  EXPECT_THAT(moved.generated(), ElementsAreArray(text.begin(), text.end()));
  EXPECT_EQ(moved.max_tokens(), 12u);
  other.SetManual(false);
  const Stream& stream = client.Join();
  ExpectWhole(stream, 12);
  EXPECT_EQ(stream.logprobs.size(), 12u);
  EXPECT_EQ(router.Metric("conclave_router_resume_seconds"), 1);
}

TEST(RouterResume, LeavesAHomeThatTheOthersFindLateAndThatBringsNoToken) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  services::Frontend::Options options;
  options.request.late_home = 50ms;
  TestRouter router({&first, &second}, options);
  Client client(router, Hello(12));
  const auto has_one = [](const auto& counts) { return counts.live == 1; };
  ASSERT_TRUE(WaitFor([&] { return has_one(first.counts()) || has_one(second.counts()); },
                      "a worker to have the sequence"));
  const bool at_first = has_one(first.counts());
  FakeWorker& home = at_first ? first : second;
  FakeWorker& other = at_first ? second : first;
  StepAndHear(home, router, 3);
  other.FindLate({at_first ? "a" : "b"});
  ASSERT_TRUE(other.WaitFor(has_one));
  EXPECT_TRUE(home.WaitFor([](const auto& counts) { return counts.live == 0; }));
  other.SetManual(false);
  ExpectWhole(client.Join(), 12);
}

TEST(RouterResume, StaysAtALateHomeThatIsNotMuchSlowerThanOthers) {
  FakeWorker late({.id = "a", .manual = true}), other({.id = "b", .manual = true});
  services::Frontend::Options options;
  options.request.late_home = 1ms;
  options.request.late_home_factor = 1 << 30;
  options.tick = 1ms;
  TestRouter router({&late, &other}, options);
  const auto has_one = [](const auto& counts) { return counts.live == 1; };
  Client one(router, Hello(12)), two(router, Hello(12));
  ASSERT_TRUE(late.WaitFor(has_one));
  ASSERT_TRUE(other.WaitFor(has_one));
  StepAndHear(other, router, 3);
  StepAndHear(late, router, 6);
  other.FindLate({"a"});
  ASSERT_TRUE(WaitFor([&] { return router.Metric("conclave_router_workers_late") == 1; },
                      "the router to hear of it"));
  late.SetManual(false);
  ASSERT_TRUE(late.WaitFor([](const auto& counts) { return counts.live == 0; }));
  other.SetManual(false);
  ExpectWhole(one.Join(), 12);
  ExpectWhole(two.Join(), 12);
  EXPECT_EQ(router.Metric("conclave_router_resume_seconds"), 0);
}

TEST(RouterResume, StaysWhereEverybodyIsLate) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  services::Frontend::Options options;
  options.request.late_home = options.request.late_home_first = 1ms;
  options.tick = 1ms;
  TestRouter router({&first, &second}, options);
  Client client(router, Hello(12));
  const auto has_one = [](const auto& counts) { return counts.live == 1; };
  ASSERT_TRUE(WaitFor([&] { return has_one(first.counts()) || has_one(second.counts()); },
                      "a worker to have the sequence"));
  FakeWorker& home = has_one(first.counts()) ? first : second;
  FakeWorker& other = has_one(first.counts()) ? second : first;
  const auto heard_of = [&](double late) {
    return WaitFor([&] { return router.Metric("conclave_router_workers_late") == late; },
                   "the router to hear of it");
  };
  home.FindLate({"a", "b"});
  ASSERT_TRUE(heard_of(1));  // first that the other one is late: there is nowhere to go then
  other.FindLate({"a", "b"});
  ASSERT_TRUE(heard_of(2));
  home.SetManual(false);
  ExpectWhole(client.Join(), 12);
  EXPECT_EQ(other.counts().submits, 0u);
}

TEST(RouterResume, WaitsForTheOnlyWorkerToComeBackAndServesAgain) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  Client client(router, Hello(9));
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  for (uint64_t lost = 1; lost <= 8; ++lost) {
    StepAndHear(worker, router, lost);
    worker.Crash();
    router.WaitReady(false);
    // Whoever comes now is told at once.
    EXPECT_EQ(router.Generate(Hello(1)).status.error_code(), grpc::UNAVAILABLE);
    worker.Revive();
    router.WaitReady(true);
    ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  }
  worker.SetManual(false);
  ExpectWhole(client.Join(), 9);
}

TEST(RouterResume, WaitsNoLongerThanItsBound) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker}, {.request = {.homeless = 1ms}});
  grpc::ClientContext context;
  const auto reader = router.stub().Generate(&context, Hello(9));
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  StepAndHear(worker, router, 2);
  worker.Crash();
  const Stream stream = TestRouter::ReadAll(*reader);
  EXPECT_EQ(stream.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(stream.status.error_message(), HasSubstr("none went on with it"));
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_UNSPECIFIED);
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
}

TEST(RouterResume, WaitsUntilItsDeadlineIfItHasOne) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker},
                    {.request = {.homeless = 1ms, .last_words_share = 0.5, .last_words_max = 60s}});
  Client client(router, Hello(9), 3s);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  worker.Crash();
  const Stream& stream = client.Join();
  EXPECT_EQ(stream.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(stream.status.error_message(),
              AllOf(HasSubstr("the worker was lost"), HasSubstr("before its deadline")));
}

// It may be the request that they die of.
TEST(RouterResume, TakesNoMoreThanSoManyWorkersWithIt) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker}, {.request = {.attempts = 3}});
  Client client(router, Hello(9));
  for (int lost = 0; lost < 3; ++lost) {
    ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
    worker.Crash();
    router.WaitReady(false);
    worker.Revive();
    router.WaitReady(true);
  }
  const Stream& stream = client.Join();
  EXPECT_EQ(stream.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(stream.status.error_message(), HasSubstr("the worker was lost"));
}

TEST(RouterResume, AsksAgainWhereThereIsNoRoomYet) {
  FakeWorker first({.id = "a", .manual = true}), second({.id = "b", .manual = true});
  TestRouter router({&first, &second});
  Client client(router, Hello(6));
  const auto has_one = [](const auto& counts) { return counts.live == 1; };
  ASSERT_TRUE(WaitFor([&] { return has_one(first.counts()) || has_one(second.counts()); },
                      "a worker to have the sequence"));
  FakeWorker& home = has_one(first.counts()) ? first : second;
  FakeWorker& other = has_one(first.counts()) ? second : first;
  StepAndHear(home, router, 2);
  other.SetFull(true);
  home.Crash();
  ASSERT_TRUE(other.WaitFor([](const auto& counts) { return counts.submits >= 2; }));
  other.SetFull(false);
  other.SetManual(false);
  ExpectWhole(client.Join(), 6);
}

TEST(RouterResume, FindsAStopStringThatItsWorkersSaidTogether) {
  FakeWorker::Options options{.manual = true, .token = Says("once upon a STOP time")};
  FakeWorker worker(options);
  TestRouter router({&worker});
  v1::GenerateRequest request = Hello(30);
  request.mutable_stopping()->add_stop("STOP");
  Client client(router, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  StepAndHear(worker, router, 14);  // up to "ST"
  worker.Crash();
  router.WaitReady(false);
  worker.Revive();
  worker.SetManual(false);
  const Stream& stream = client.Join();
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, "once upon a ");
  EXPECT_EQ(stream.last.stop_string(), "STOP");
  EXPECT_EQ(stream.tokens.size(), 16u);
}

TEST(RouterResume, TakesAwayWhatASilentWorkerHas) {
  FakeWorker silent({.id = "a", .manual = true, .pulse_ms = 1});
  FakeWorker other({.id = "b"});
  TestRouter router({&silent}, {.homes = {.suspicion = 1ms, .give_up = 2ms}});
  Client client(router, Hello(9));
  ASSERT_TRUE(silent.WaitFor([](const auto& counts) { return counts.live == 1; }));
  StepAndHear(silent, router, 2);
  router.frontend().AddWorker(other.address());
  ExpectWhole(client.Join(), 9);
  EXPECT_EQ(other.counts().tokens, 7u);
  EXPECT_TRUE(silent.WaitFor([](const auto& counts) { return counts.live == 0; }));
}

TEST(RouterResume, DoesNotGoOnWithAnotherModel) {
  auto worker = std::make_unique<FakeWorker>(FakeWorker::Options{.manual = true});
  const std::string address = worker->address();
  TestRouter router({worker.get()});
  Client client(router, Hello(9));
  ASSERT_TRUE(worker->WaitFor([](const auto& counts) { return counts.live == 1; }));
  StepAndHear(*worker, router, 2);
  worker.reset();
  router.WaitReady(false);
  FakeWorker other({.listen = address, .model = "other"});
  const Stream& stream = client.Join();
  EXPECT_EQ(stream.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(stream.status.error_message(), HasSubstr("no worker serves the model"));
  EXPECT_EQ(stream.tokens.size(), 2u);
}

TEST(RouterResume, ADrainingRouterDoesNotWaitForWorkers) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  Client client(router, Hello(9));
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  router.frontend().Drain();
  worker.Crash();
  EXPECT_EQ(client.Join().status.error_code(), grpc::UNAVAILABLE);
}

}  // namespace
}  // namespace conclave::testing
