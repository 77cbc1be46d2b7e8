// Stories of workers and their scheduler.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "services/channel.h"
#include "services/grpc_status.h"
#include "tests/cluster/ask_status.h"
#include "tests/cluster/fake_cluster.h"
#include "tests/cluster/test_link.h"
#include "tests/cluster/test_watch.h"
#include "tests/testing/wait_for.h"

namespace conclave::services::testing {
namespace {

using conclave::testing::WaitFor;
using ::testing::HasSubstr;

FakeCluster::Options Quick(int workers) {
  FakeCluster::Options options{.workers = workers};
  options.model.eos = -1;
  options.worker.heartbeat.period = std::chrono::milliseconds(20);
  options.scheduling.service.tick = std::chrono::milliseconds(10);
  // Longer than a busy machine keeps a worker from beating.
  options.scheduling.service.membership.suspect_after = std::chrono::milliseconds(500);
  options.scheduling.service.membership.dead_after = std::chrono::milliseconds(2000);
  return options;
}

// Of this CPU's best numerics; the test makes it beat.
WorkerNode::Options OtherWorker(const FakeCluster& cluster) {
  return {.model = cluster.model(),
          .id = "other",
          .scheduler = cluster.scheduler_address(),
          .metrics = "",
          .threads = 1,
          .numerics = worker::CpuLevels().front(),
          .heartbeat = {.period = std::chrono::milliseconds(0)}};
}

TEST(Scheduler, TellsWatchersOfWorkersThatJoin) {
  FakeCluster cluster(Quick(1));
  TestWatch watch(cluster.scheduler_address());
  auto view = watch.WaitForState("worker-0", v1::WORKER_STATE_READY);
  ASSERT_TRUE(view.has_value());
  cluster.AddWorker();
  view = watch.WaitForState("worker-1", v1::WORKER_STATE_READY);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->workers_size(), 2);
  EXPECT_EQ(view->workers(1).address(), cluster.worker(1).address());
  EXPECT_EQ(view->workers(1).model().numerics(), cluster.worker(1).engine().numerics());
  EXPECT_EQ(view->workers(1).experts(), 16u);
}

TEST(Scheduler, TellsWhereOtherWorkersReachOne) {
  FakeCluster cluster(Quick(0));
  TestWatch watch(cluster.scheduler_address());
  WorkerNode::Options options = OtherWorker(cluster);
  options.heartbeat.period = std::chrono::milliseconds(20);
  options.exchange = "tcp";
  options.exchange_advertise = "0.0.0.0:7801";
  EXPECT_EQ(WorkerNode::Start(options, nullptr).status(),
            absl::FailedPreconditionError("--exchange-advertise: name a host others can reach"));
  options.exchange_advertise = "proxy.example:7801";
  const auto worker = WorkerNode::Start(options, nullptr);
  ASSERT_TRUE(worker.ok()) << worker.status();
  const auto view = watch.WaitForState("other", v1::WORKER_STATE_READY);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->workers(0).exchange_address(), "proxy.example:7801");
}

TEST(Scheduler, TellsLoadsInItsStatus) {
  FakeCluster cluster(Quick(1));
  TestWatch watch(cluster.scheduler_address());
  ASSERT_TRUE(watch.WaitForState("worker-0", v1::WORKER_STATE_READY).has_value());
  const v1::StatusResponse status = AskStatus(cluster.scheduler_address());
  EXPECT_EQ(status.scheduler().pid(), getpid());
  EXPECT_EQ(status.scheduler().address(), cluster.scheduler_address());
  ASSERT_EQ(status.workers_size(), 1);
  EXPECT_GT(status.workers(0).load().kv_blocks(), 0u);
}

TEST(Scheduler, NoticesADeadWorker) {
  FakeCluster cluster(Quick(2));
  TestWatch watch(cluster.scheduler_address());
  ASSERT_TRUE(watch.WaitForState("worker-1", v1::WORKER_STATE_READY).has_value());
  cluster.KillWorker(1);
  const auto view = watch.WaitForState("worker-1", v1::WORKER_STATE_DEAD);
  ASSERT_TRUE(view.has_value());
  EXPECT_NE(view->workers(0).state(), v1::WORKER_STATE_DEAD);
  const v1::StatusResponse status = AskStatus(cluster.scheduler_address());
  EXPECT_GT(status.workers(0).load().kv_blocks(), 0u);
  EXPECT_FALSE(status.workers(1).has_load()) << "nothing is left of it";
}

TEST(Scheduler, HearsOfADrainingWorkerAtOnce) {
  FakeCluster::Options options = Quick(1);
  options.worker.heartbeat.period = std::chrono::minutes(10);
  options.scheduling.service.membership.suspect_after = std::chrono::minutes(20);
  options.scheduling.service.membership.dead_after = std::chrono::minutes(30);
  options.scheduling.service.membership.forget_after = std::chrono::minutes(40);
  FakeCluster cluster(options);
  TestWatch watch(cluster.scheduler_address());
  ASSERT_TRUE(watch.WaitForState("worker-0", v1::WORKER_STATE_READY).has_value());
  EXPECT_TRUE(cluster.worker(0).Drain(std::chrono::seconds(10)).ok());
  EXPECT_TRUE(watch.WaitForState("worker-0", v1::WORKER_STATE_DRAINING).has_value());
}

TEST(Scheduler, IsNotMissedByAWorkerThatServesAndIsJoinedAgainAfterARestart) {
  FakeCluster cluster(Quick(1));
  uint64_t version = 0;
  {
    TestWatch watch(cluster.scheduler_address());
    const auto view = watch.WaitForState("worker-0", v1::WORKER_STATE_READY);
    ASSERT_TRUE(view.has_value());
    version = view->version();
  }
  TestLink link(cluster.worker(0).address());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 300)));
  link.WaitForTokens(1, 1);
  cluster.KillScheduler();
  ASSERT_TRUE(link.Submit(MakeSubmit(2, 8, 300)));
  EXPECT_EQ(link.WaitForEnd(1).tokens.size(), 300u);
  EXPECT_EQ(link.WaitForEnd(2).tokens.size(), 300u);
  EXPECT_FALSE(cluster.worker(0).heartbeat()->Step().ok());

  cluster.StartScheduler();
  TestWatch watch(cluster.scheduler_address());
  const auto restored = watch.WaitFor([](const v1::ClusterView&) { return true; });
  ASSERT_TRUE(restored.has_value());
  EXPECT_GE(restored->version(), version);
  ASSERT_EQ(restored->workers_size(), 1);
  EXPECT_EQ(restored->workers(0).model().vocab_size(), 260u);
  cluster.AddWorker();
  const auto joined = watch.WaitFor([](const v1::ClusterView& view) {
    return view.workers_size() == 2 && view.workers(0).state() == v1::WORKER_STATE_READY &&
           view.workers(1).state() == v1::WORKER_STATE_READY;
  });
  EXPECT_TRUE(joined.has_value());
}

TEST(Scheduler, EndsItsWatchesWhenDraining) {
  FakeCluster cluster(Quick(0));
  TestWatch watch(cluster.scheduler_address());
  ASSERT_TRUE(watch.WaitFor([](const v1::ClusterView&) { return true; }).has_value());
  EXPECT_TRUE(cluster.scheduler().Drain(std::chrono::seconds(5)).ok());
  EXPECT_EQ(watch.WaitForStatus().error_code(), grpc::UNAVAILABLE);
}

TEST(Scheduler, RefusesAWorkerThatReturnsSumsWhereTheOthersReturnRows) {
  FakeCluster cluster(Quick(1));
  TestWatch watch(cluster.scheduler_address());
  ASSERT_TRUE(watch.WaitForState("worker-0", v1::WORKER_STATE_READY).has_value());
  WorkerNode::Options options = OtherWorker(cluster);
  options.numerics = "";
  options.returns = "sums";
  absl::Status refused;
  auto node = WorkerNode::Start(options, [&](const absl::Status& status) { refused = status; });
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ((*node)->heartbeat()->Step().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("+sums, worker worker-0 as"));
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("see --numerics, --weights, --dense-weights and --returns"));
}

TEST(Scheduler, RefusesAWorkerOfAnotherCarrierWhichWouldNeverConnect) {
  FakeCluster cluster(Quick(0));
  const auto start = [&](const std::string& id, const std::string& exchange, absl::Status& end) {
    WorkerNode::Options options = OtherWorker(cluster);
    options.id = id;
    options.exchange = exchange;
    auto node = WorkerNode::Start(options, [&](const absl::Status& status) { end = status; });
    EXPECT_TRUE(node.ok()) << node.status();
    return *std::move(node);
  };
  absl::Status first, second;
  const auto by_shm = start("one", "shm", first);
  EXPECT_TRUE(by_shm->heartbeat()->Step().ok());
  const auto by_tcp = start("two", "tcp", second);
  EXPECT_FALSE(by_tcp->heartbeat()->Step().ok());
  EXPECT_TRUE(first.ok());
  EXPECT_EQ(second, absl::FailedPreconditionError(
                        "worker two exchanges rows by tcp, worker one by shm; see --exchange"));
}

// A worker of the least numerics, before one of the best comes.
class SchedulerOfNumerics : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(watch_.WaitForState("worker-0", v1::WORKER_STATE_READY).has_value());
    if (worker::CpuLevels().front() == "portable") GTEST_SKIP() << "this CPU has one level only";
  }

  static FakeCluster::Options Portable() {
    FakeCluster::Options options = Quick(1);
    options.worker.numerics = "portable";
    return options;
  }

  FakeCluster cluster_{Portable()};
  TestWatch watch_{cluster_.scheduler_address()};
};

TEST_F(SchedulerOfNumerics, RefusesAWorkerOfOthersWhichThenSaysSo) {
  absl::Status refused;
  auto node = WorkerNode::Start(OtherWorker(cluster_),
                                [&](const absl::Status& status) { refused = status; });
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ((*node)->heartbeat()->Step().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("worker other computes as"));
}

TEST_F(SchedulerOfNumerics, LetsAWorkerThatItAskedToWaitTakeThePlaceOfASilentOne) {
  cluster_.KillWorker(0);
  ASSERT_TRUE(watch_.WaitForState("worker-0", v1::WORKER_STATE_SUSPECT).has_value());

  std::atomic<bool> refused = false;
  auto node =
      WorkerNode::Start(OtherWorker(cluster_), [&](const absl::Status&) { refused = true; });
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_TRUE(WaitFor([&] { return (*node)->heartbeat()->Step().ok(); }, "a beat to be heard"));
  EXPECT_FALSE(refused);
}

// Another process's plan, committed while no scheduler ran.
void SetEpoch(FakeCluster& cluster, uint64_t epoch) {
  auto store = StateStore::Open(cluster.state().path());
  ASSERT_TRUE(store.ok()) << store.status();
  auto state = (*store)->Load();
  ASSERT_TRUE(state.ok()) << state.status();
  state->membership.epoch = epoch;
  ++state->membership.version;
  scheduler::Placement placement = scheduler::Everywhere({"worker-0"}, 16);
  placement.epoch = placement.plan = epoch;
  state->placement = {.last_plan = epoch, .floor = epoch, .current = std::move(placement)};
  ASSERT_TRUE((*store)->Save(*state).ok());
}

TEST(Scheduler, TellsWorkersTheEpochWhichTheyAdoptAndKeepWithoutIt) {
  FakeCluster cluster(Quick(1));
  WorkerNode& worker = cluster.worker(0);
  const auto watches = [&](bool connected) {
    return WaitFor([&, connected] { return worker.watch()->connected() == connected; },
                   "the worker's watch");
  };
  ASSERT_TRUE(watches(true));
  EXPECT_EQ(worker.epoch(), 0u);
  cluster.KillScheduler();
  SetEpoch(cluster, 7);
  cluster.StartScheduler();
  EXPECT_TRUE(WaitFor([&] { return worker.epoch() == 7; }, "the worker to adopt epoch 7"));
  const auto reported = [&] {
    const v1::StatusResponse status = AskStatus(cluster.scheduler_address());
    return status.workers_size() == 1 && status.workers(0).epoch() == 7;
  };
  EXPECT_TRUE(WaitFor(reported, "the worker to report it"));

  cluster.KillScheduler();
  ASSERT_TRUE(watches(false));
  EXPECT_EQ(worker.epoch(), 7u);
  TestLink link(worker.address());
  ASSERT_TRUE(link.Submit(MakeSubmit(1, 8, 20)));
  EXPECT_EQ(link.WaitForEnd(1).tokens.size(), 20u);

  SetEpoch(cluster, 3);  // a scheduler that has lost its state
  cluster.StartScheduler();
  ASSERT_TRUE(watches(true));
  EXPECT_EQ(worker.epoch(), 7u);
}

TEST(Scheduler, IsAskedInVainForMoreWatchesThanItsLimit) {
  FakeCluster::Options options = Quick(0);
  options.scheduling.service.max_watchers = 1;
  FakeCluster cluster(options);
  TestWatch first(cluster.scheduler_address());
  ASSERT_TRUE(first.WaitFor([](const v1::ClusterView&) { return true; }).has_value());
  TestWatch second(cluster.scheduler_address());
  EXPECT_EQ(second.WaitForStatus().error_code(), grpc::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace conclave::services::testing
