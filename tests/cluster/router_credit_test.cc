// Routers submit what workers granted them, and keep the rest: it goes to whoever grants next, or
// ends where it waits.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using namespace std::chrono_literals;

// Clients that all ask for the same and have to get it.
class Clients {
 public:
  explicit Clients(TestRouter& router) : router_(router) {}
  ~Clients() {
    for (std::thread& thread : threads_) thread.join();
  }
  void Ask(int more) {
    for (int i = 0; i < more; ++i) {
      threads_.emplace_back([this] {
        const Stream stream = router_.Generate(TextRequest("hello", 9));
        EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
        EXPECT_EQ(stream.text, HashedText("hello", 1, 9));
      });
    }
  }

 private:
  TestRouter& router_;
  std::vector<std::thread> threads_;
};

auto Live(size_t count) {
  return [count](const FakeWorker::Counts& counts) { return counts.live == count; };
}

::testing::AssertionResult Waits(const TestRouter& router, int count) {
  return WaitFor([&] { return router.Metric("conclave_router_waiting_for_credit") == count; },
                 std::to_string(count) + " requests to wait for credit");
}

TEST(RouterCredit, SubmitsWhatWasGrantedAndKeepsTheRest) {
  FakeWorker worker({.manual = true, .granted = 2});
  TestRouter router({&worker});
  EXPECT_EQ(router.Metric("conclave_router_link_credit"), 2);
  Clients clients(router);
  clients.Ask(5);
  ASSERT_TRUE(worker.WaitFor(Live(2)));
  ASSERT_TRUE(Waits(router, 3));
  EXPECT_EQ(router.Metric("conclave_router_link_credit"), 0);
  worker.Grant(1);
  ASSERT_TRUE(worker.WaitFor(Live(3)));
  ASSERT_TRUE(Waits(router, 2));
  worker.SetManual(false);
  ASSERT_TRUE(worker.WaitFor(Live(0)));
  ASSERT_TRUE(Waits(router, 2)) << "an end is no grant";
  worker.Grant(10);
  EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.submits == 5; }));
  EXPECT_EQ(worker.counts().ungranted, 0u);
}

TEST(RouterCredit, GivesWhatWaitsToTheWorkerThatGrants) {
  FakeWorker first({.id = "a", .manual = true, .granted = 1});
  FakeWorker second({.id = "b", .manual = true, .granted = 1});
  TestRouter router({&first, &second});
  Clients clients(router);
  clients.Ask(5);
  ASSERT_TRUE(first.WaitFor(Live(1)));
  ASSERT_TRUE(second.WaitFor(Live(1)));
  ASSERT_TRUE(Waits(router, 3));
  second.Grant(3);
  EXPECT_TRUE(second.WaitFor(Live(4)));
  EXPECT_EQ(first.counts().submits, 1u);
  EXPECT_TRUE(Waits(router, 0));
  first.SetManual(false);
  second.SetManual(false);
}

TEST(RouterCredit, EndsWhereItWaitsWhatItsClientLeavesOrIsTooLate) {
  FakeWorker worker({.granted = 0});
  TestRouter router({&worker});
  grpc::ClientContext context;
  const auto leaves = router.stub().Generate(&context, TextRequest("x", 9));
  ASSERT_TRUE(Waits(router, 1));
  EXPECT_EQ(router.Generate(TextRequest("y", 9), 100ms).status.error_code(),
            grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Waits(router, 1)) << "the late one is gone";
  context.TryCancel();
  EXPECT_EQ(TestRouter::ReadAll(*leaves).status.error_code(), grpc::CANCELLED);
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  worker.Grant(1);
  EXPECT_TRUE(router.Generate(TextRequest("z", 9)).status.ok());
  EXPECT_EQ(worker.counts().submits, 1u);
}

TEST(RouterCredit, GoesOnElsewhereWithoutAGrant) {
  FakeWorker first({.id = "a", .manual = true, .granted = 3});
  FakeWorker second({.id = "b", .manual = true, .granted = 0});
  TestRouter router({&first, &second});
  Clients clients(router);
  clients.Ask(3);
  ASSERT_TRUE(first.WaitFor(Live(3)));
  clients.Ask(2);
  ASSERT_TRUE(Waits(router, 2));
  first.Step();
  first.Crash();
  ASSERT_TRUE(second.WaitFor(Live(3)));
  EXPECT_EQ(second.counts().went_on, 3u);
  EXPECT_TRUE(Waits(router, 2)) << "who never had a worker";
  // What went on is counted: two more than those are five.
  second.Grant(4);
  EXPECT_TRUE(second.WaitFor(Live(4)));
  second.Grant(1);
  EXPECT_TRUE(second.WaitFor(Live(5)));
  EXPECT_EQ(second.counts().ungranted, 0u);
  second.SetManual(false);
}

TEST(RouterCredit, GivesADrainingWorkerWhatIsLeftForWantOfAnother) {
  FakeWorker worker({.manual = true, .granted = 1});
  TestRouter router({&worker});
  Clients clients(router);
  clients.Ask(3);
  ASSERT_TRUE(worker.WaitFor(Live(1)));
  ASSERT_TRUE(Waits(router, 2));
  worker.DrainTakingLeftovers();
  EXPECT_TRUE(worker.WaitFor(Live(3)));
  worker.SetManual(false);
}

TEST(RouterCredit, AsksAWorkerThatGrantsNothingAsBefore) {
  FakeWorker old({.id = "old", .manual = true});
  FakeWorker granting({.id = "new", .manual = true, .granted = 1});
  TestRouter router({&old, &granting});
  Clients clients(router);
  clients.Ask(6);
  EXPECT_TRUE(old.WaitFor(Live(5)));
  EXPECT_TRUE(granting.WaitFor(Live(1)));
  EXPECT_TRUE(Waits(router, 0));
  old.SetManual(false);
  granting.SetManual(false);
}

}  // namespace
}  // namespace conclave::testing
