// How a worker shares what it has room for between its routers.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/test_link.h"
#include "tests/cluster/whole_router.h"
#include "tests/testing/wait_for.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::HasSubstr;

// Four at once and one that waits; steps slow enough to tell of. It says nothing for the sake of
// time passing: what is told is told when it changes.
FakeCluster::Options Small() {
  FakeCluster::Options options{.scheduler = false};
  options.model.eos = -1;
  options.worker.failpoints = {"step.begin=delay:2"};
  options.worker.engine.planner.max_running = 4;
  options.worker.service.load_period = std::chrono::milliseconds(0);
  options.worker.service.leftovers_answer = std::chrono::milliseconds(0);
  return options;
}

void SubmitAll(TestLink& link, uint64_t first, uint64_t last, uint32_t max_tokens) {
  v1::ToWorker message;
  for (uint64_t id = first; id <= last; ++id) *message.add_submit() = MakeSubmit(id, 8, max_tokens);
  ASSERT_TRUE(link.Send(message));
}

TEST(WorkerCredit, GrantsABatchAndAFewThatWait) {
  FakeCluster cluster(Small());
  TestLink link(cluster.worker(0).address());
  EXPECT_EQ(link.WaitForGrant(1), 5u);
}

TEST(WorkerCredit, RefusesByNameWhatItHasNotGranted) {
  FakeCluster cluster(Small());
  TestLink link(cluster.worker(0).address());
  ASSERT_EQ(link.WaitForGrant(1), 5u);
  SubmitAll(link, 1, 6, 30);
  const v1::End end = link.WaitForEnd(6).end;
  EXPECT_EQ(end.code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(end.message(), HasSubstr("granted this router 5 sequences"));
  EXPECT_EQ(cluster.worker(0).service().stats().ungranted, 1u);
  for (uint64_t id = 1; id <= 5; ++id) EXPECT_EQ(link.WaitForEnd(id).tokens.size(), 30u);
}

TEST(WorkerCredit, GrantsAgainAtOnceWhenSequencesEnd) {
  FakeCluster cluster(Small());
  TestLink link(cluster.worker(0).address());
  ASSERT_EQ(link.WaitForGrant(1), 5u);
  for (uint64_t id = 1; id <= 60; ++id) {
    ASSERT_GE(link.WaitForGrant(id), id);
    SubmitAll(link, id, id, 3);
  }
  for (uint64_t id = 1; id <= 60; ++id) EXPECT_EQ(link.WaitForEnd(id).tokens.size(), 3u);
  EXPECT_EQ(cluster.worker(0).service().stats().refused, 0u);
  EXPECT_GE(link.WaitForGrant(63), 63u) << "of five places, more than half";
}

TEST(WorkerCredit, TakesWhatGoesOnBeyondItsGrantAndCountsIt) {
  FakeCluster cluster(Small());
  TestLink link(cluster.worker(0).address());
  ASSERT_EQ(link.WaitForGrant(1), 5u);
  v1::ToWorker message;
  for (uint64_t id = 1; id <= 8; ++id) {
    *message.add_submit() = MakeSubmit(id, 8, 10);
    message.mutable_submit()->rbegin()->set_goes_on(true);
  }
  ASSERT_TRUE(link.Send(message));
  for (uint64_t id = 1; id <= 8; ++id) EXPECT_EQ(link.WaitForEnd(id).tokens.size(), 10u);
  const uint64_t granted = link.WaitForGrant(11);
  EXPECT_GE(granted, 11u) << "of five places, more than half";
  EXPECT_LE(granted, 13u) << "five more than it had to take";
}

TEST(WorkerCredit, GrantsToARouterWhatAnotherNoLongerHas) {
  FakeCluster cluster(Small());
  TestLink stays(cluster.worker(0).address());
  ASSERT_EQ(stays.WaitForGrant(1), 5u);
  {
    TestLink leaves(cluster.worker(0).address());
    ASSERT_EQ(leaves.WaitForGrant(1), 2u);
    SubmitAll(leaves, 1, 2, 1000);
    leaves.WaitForTokens(2, 1);
    // The grant of before stays; by using it up it is over the worker's room.
    SubmitAll(stays, 1, 5, 1000);
    stays.WaitForTokens(2, 1);
  }
  // Of five places four are taken, once the other router's sequences are gone.
  ASSERT_TRUE(stays.Cancel(1));
  stays.WaitForEnd(1);
  EXPECT_GE(stays.WaitForGrant(6), 6u);
}

TEST(WorkerCredit, GrantsForThoseThatArePaused) {
  FakeCluster cluster(Small());
  TestLink link(cluster.worker(0).address());
  ASSERT_EQ(link.WaitForGrant(1), 5u);
  SubmitAll(link, 1, 5, 1000);
  v1::ToWorker message;
  message.add_pause(1);
  message.add_pause(2);
  ASSERT_TRUE(link.Send(message));
  EXPECT_EQ(link.WaitForGrant(7), 7u);
}

// Two routers with many clients, one worker: nothing is refused, nobody waits for ever, and what
// waits does so in the routers.
TEST(WorkerCredit, IsEnoughForTwoRoutersAtOneWorker) {
  FakeCluster::Options options = Small();
  options.scheduler = true;
  options.worker.service.load_period = std::chrono::milliseconds(100);
  options.worker.failpoints.clear();
  FakeCluster cluster(options);
  const auto a = StartRouter(cluster, cluster.model()), b = StartRouter(cluster, cluster.model());
  std::vector<std::thread> clients;
  for (int i = 0; i < 24; ++i) {
    clients.emplace_back([&, i] {
      const auto stub = StubOf(i % 2 == 0 ? *a : *b);
      ASSERT_TRUE(
          WaitFor([&] { return Generate(*stub, SeededRequest(1, 1)).status.ok(); }, "the router"));
      for (uint64_t seed = 1; seed <= 5; ++seed) {
        const Answer answer = Generate(*stub, SeededRequest(seed, 20));
        EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
        EXPECT_EQ(answer.tokens.size(), 20u);
      }
    });
  }
  int32_t most = 0;
  const auto all_ended = [&] {
    const worker::Engine::Stats stats = cluster.worker(0).engine().stats();
    most = std::max(most, stats.planner.waiting);
    return stats.ended_length >= 24 * 5;
  };
  EXPECT_TRUE(WaitFor(all_ended, "all requests to end"));
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(cluster.worker(0).service().stats().refused, 0u);
  // One that may wait, and what each of two idle routers was granted beside what the other used.
  EXPECT_LE(most, 1 + 5);
}

}  // namespace
}  // namespace conclave::services::testing
