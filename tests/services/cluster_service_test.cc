// The scheduler's decisions with virtual time and no network.

#include "services/cluster_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/services/testing/stepped_cluster_service.h"

namespace conclave::services {
namespace {

using ::testing::HasSubstr;

v1::WorkerInfo Info(const std::string& id, uint64_t incarnation = 1) {
  v1::WorkerInfo info;
  info.set_id(id);
  info.set_incarnation(incarnation);
  info.set_address("127.0.0.1:5000");
  info.set_state(v1::WORKER_STATE_READY);
  info.mutable_model()->set_digest("d");
  info.mutable_model()->set_numerics("cpu-1");
  info.mutable_load()->set_running(3);
  return info;
}

v1::WorkerInfo OfAnotherModel(const std::string& id) {
  v1::WorkerInfo info = Info(id);
  info.mutable_model()->set_digest("e");
  return info;
}

v1::HeartbeatRequest BeatOf(const v1::WorkerInfo& info) {
  v1::HeartbeatRequest beat;
  *beat.mutable_worker() = info;
  return beat;
}

class ClusterServiceTest : public testing::SteppedClusterService {
 protected:
  ClusterServiceTest() {
    options_.membership.max_workers = 3;
    options_.routers.max_routers = 3;
    Restart();
  }

  // A beat and what follows at once.
  absl::Status Hear(const v1::WorkerInfo& info) {
    absl::Status status = service_->Hear(BeatOf(info), now_);
    service_->Step(now_);
    return status;
  }
  absl::Status HearRouter(const std::string& address, const std::string& metrics = "-") {
    v1::HeartbeatRequest beat;
    beat.mutable_router()->set_address(address);
    beat.mutable_router()->set_metrics_address(metrics);
    return service_->Hear(beat, now_);
  }
  void Pass(std::chrono::milliseconds time) {
    now_ += time;
    service_->Step(now_);
  }
};

TEST_F(ClusterServiceTest, ShowsAWorkerAfterItsFirstBeat) {
  EXPECT_EQ(service_->view()->workers_size(), 0);
  ASSERT_TRUE(Hear(Info("a")).ok());
  ASSERT_EQ(service_->view()->workers_size(), 1);
  EXPECT_EQ(service_->view()->workers(0).state(), v1::WORKER_STATE_READY);
  EXPECT_FALSE(service_->view()->workers(0).has_load());
}

TEST_F(ClusterServiceTest, DoesNotTellTheSameViewTwice) {
  ASSERT_TRUE(Hear(Info("a")).ok());
  const auto view = service_->view();
  ASSERT_TRUE(Hear(Info("a")).ok());
  Pass(std::chrono::milliseconds(100));
  EXPECT_EQ(service_->view(), view);
  EXPECT_EQ(service_->stats().saves, 1u);
}

TEST_F(ClusterServiceTest, FollowsAWorkerIntoSilence) {
  ASSERT_TRUE(Hear(Info("a")).ok());
  Pass(std::chrono::milliseconds(500));
  EXPECT_EQ(service_->view()->workers(0).state(), v1::WORKER_STATE_SUSPECT);
  Pass(std::chrono::milliseconds(1500));
  EXPECT_EQ(service_->view()->workers(0).state(), v1::WORKER_STATE_DEAD);
  EXPECT_EQ(service_->stats().workers.at("dead"), 1);
  Pass(std::chrono::minutes(10));
  EXPECT_EQ(service_->view()->workers_size(), 0);
}

TEST_F(ClusterServiceTest, ComesBackFromARestartAsItWas) {
  ASSERT_TRUE(Hear(Info("a")).ok());
  ASSERT_TRUE(Hear(Info("b", 7)).ok());
  const auto before = service_->view();
  Restart();
  EXPECT_EQ(service_->view()->SerializeAsString(), before->SerializeAsString());
  EXPECT_EQ(Hear(Info("b", 6)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Hear(Info("b", 7)).ok());
}

TEST_F(ClusterServiceTest, TellsNothingItCouldNotSaveAndTriesAgain) {
  Restart({"scheduler.save=error@1"});
  ASSERT_TRUE(Hear(Info("a")).ok());
  EXPECT_EQ(service_->view()->workers_size(), 0);
  EXPECT_EQ(service_->stats().saves_failed, 1u);
  Pass(std::chrono::milliseconds(999));
  EXPECT_EQ(service_->view()->workers_size(), 0);
  Pass(std::chrono::milliseconds(1));
  EXPECT_EQ(service_->view()->workers_size(), 1);
}

TEST_F(ClusterServiceTest, RefusesAnotherModelOrNumericsByName) {
  ASSERT_TRUE(Hear(Info("a")).ok());
  v1::WorkerInfo other = Info("b");
  other.mutable_model()->set_numerics("cpu-2");
  EXPECT_EQ(Hear(other).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(Hear(other).message()), HasSubstr("worker b computes as cpu-2"));
  EXPECT_EQ(Hear(OfAnotherModel("b")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(service_->view()->workers_size(), 1);
}

TEST_F(ClusterServiceTest, RefusesAnotherSizeOfStepsByNameWhereRowsAreExchanged) {
  v1::WorkerInfo first = Info("a"), other = Info("b");
  first.set_step_tokens(256);
  other.set_step_tokens(128);
  first.set_exchange_address("127.0.0.1:6000");
  ASSERT_TRUE(Hear(first).ok());
  EXPECT_TRUE(Hear(other).ok()) << "it exchanges nothing";
  other = Info("c");
  other.set_step_tokens(128);
  other.set_exchange_address("127.0.0.1:6001");
  EXPECT_EQ(Hear(other).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(Hear(other).message()),
              HasSubstr("worker c steps up to 128 tokens, worker a up to 256; see --step-tokens"));
  other.set_step_tokens(256);
  EXPECT_TRUE(Hear(other).ok());
}

TEST_F(ClusterServiceTest, RefusesAnotherCarrierOfRowsByNameWhereTheTwoNeverConnect) {
  const auto by = [](const std::string& id, const std::string& carrier) {
    v1::WorkerInfo info = Info(id);
    info.set_exchange_address("127.0.0.1:6000");
    info.set_exchange(carrier);
    return info;
  };
  ASSERT_TRUE(Hear(by("a", "tcp")).ok());
  EXPECT_EQ(Hear(by("b", "shm")),
            absl::FailedPreconditionError(
                "worker b exchanges rows by shm, worker a by tcp; see --exchange"));
  EXPECT_TRUE(Hear(by("b", "auto")).ok()) << "it sends and takes both";
  EXPECT_TRUE(Hear(by("c", "tcp")).ok());
  v1::WorkerInfo alone = by("c", "shm");
  alone.clear_exchange_address();
  EXPECT_TRUE(Hear(alone).ok()) << "it exchanges nothing";
  EXPECT_TRUE(Hear(by("c", "")).ok()) << "it does not say";
  EXPECT_EQ(Hear(by("c", "pigeon")).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClusterServiceTest, CountsDeathsAndRestarts) {
  ASSERT_TRUE(Hear(Info("a")).ok());
  ASSERT_TRUE(Hear(Info("a", 2)).ok());
  EXPECT_EQ(service_->stats().changes.restarts, 1u);
  EXPECT_EQ(service_->stats().changes.deaths, 0u);
  Pass(std::chrono::seconds(2));
  EXPECT_EQ(service_->stats().changes.deaths, 1u);
  Restart();
  Pass(std::chrono::seconds(3));
  EXPECT_EQ(service_->stats().changes.deaths, 0u) << "the last scheduler counted it";
}

TEST_F(ClusterServiceTest, TellsNothingThatADeadWorkerHad) {
  v1::WorkerInfo info = Info("a");
  info.set_experts(8);
  ASSERT_TRUE(Hear(info).ok());
  EXPECT_EQ(service_->view()->workers(0).experts(), 8u);
  Pass(std::chrono::seconds(2));
  EXPECT_EQ(service_->view()->workers(0).experts(), 0u);
  ASSERT_TRUE(Hear(info).ok());
  EXPECT_EQ(service_->view()->workers(0).experts(), 8u);
}

TEST_F(ClusterServiceTest, AsksAnotherModelToWaitWhileTheWorkerItContradictsIsSilent) {
  ASSERT_TRUE(Hear(Info("a")).ok());
  Pass(std::chrono::milliseconds(500));
  EXPECT_EQ(Hear(OfAnotherModel("b")).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(Hear(OfAnotherModel("b")).message()), HasSubstr("worker a serves"));
  ASSERT_TRUE(Hear(Info("a")).ok());
  EXPECT_EQ(Hear(OfAnotherModel("b")).code(), absl::StatusCode::kFailedPrecondition);
  Pass(std::chrono::seconds(2));  // until it is dead
  EXPECT_TRUE(Hear(OfAnotherModel("b")).ok());
  EXPECT_EQ(Hear(Info("a")).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ClusterServiceTest, LetsAnotherModelFollowAClusterThatDrains) {
  v1::WorkerInfo leaving = Info("a");
  leaving.set_state(v1::WORKER_STATE_DRAINING);
  ASSERT_TRUE(Hear(leaving).ok());
  EXPECT_TRUE(Hear(OfAnotherModel("b")).ok());
}

TEST_F(ClusterServiceTest, LetsAnotherModelFollowAClusterThatDrainedBeforeARestart) {
  v1::WorkerInfo leaving = Info("a");
  leaving.set_state(v1::WORKER_STATE_DRAINING);
  ASSERT_TRUE(Hear(leaving).ok());
  Restart();
  EXPECT_TRUE(Hear(OfAnotherModel("b")).ok());
}

TEST_F(ClusterServiceTest, LetsTheStoredClusterBeHeardBeforeAnotherModelTakesItsPlace) {
  ASSERT_TRUE(Hear(Info("a")).ok());
  Restart();
  EXPECT_EQ(Hear(OfAnotherModel("b")).code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(Hear(Info("a")).ok());
  EXPECT_EQ(Hear(OfAnotherModel("b")).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ClusterServiceTest, LetsAnotherModelTakeThePlaceOfAStoredClusterThatIsNotHeard) {
  ASSERT_TRUE(Hear(Info("a")).ok());
  ASSERT_TRUE(Hear(Info("b")).ok());
  Restart();
  v1::WorkerInfo swapped = OfAnotherModel("a");
  swapped.set_incarnation(2);
  EXPECT_EQ(Hear(swapped).code(), absl::StatusCode::kUnavailable);
  Pass(std::chrono::milliseconds(500));
  EXPECT_TRUE(Hear(swapped).ok());
  // It is the cluster now.
  EXPECT_EQ(Hear(Info("b")).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ClusterServiceTest, NotesABeatAndLeavesTheDiskToTheNextStep) {
  ASSERT_TRUE(service_->Hear(BeatOf(Info("a")), now_).ok());
  EXPECT_EQ(service_->stats().saves, 0u);
  EXPECT_EQ(service_->view()->workers_size(), 0);
  service_->Step(now_);
  EXPECT_EQ(service_->stats().saves, 1u);
  EXPECT_EQ(service_->view()->workers_size(), 1);
}

TEST_F(ClusterServiceTest, HearsBeatsWhileASaveHangs) {
  Restart({"scheduler.save=delay:1000@1"});
  ASSERT_TRUE(service_->Hear(BeatOf(Info("a")), now_).ok());
  std::jthread saving([this] { service_->Step(now_); });
  ASSERT_TRUE(service_->Hear(BeatOf(Info("b")), now_).ok());
  EXPECT_EQ(service_->stats().saves, 0u);
  saving.join();
  service_->Step(now_);  // what came meanwhile
  EXPECT_EQ(service_->view()->workers_size(), 2);
}

TEST_F(ClusterServiceTest, RefusesMoreWorkersThanItsLimit) {
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(Hear(Info(id)).ok());
  EXPECT_EQ(Hear(Info("d")).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Hear(Info("c")).ok());
}

TEST_F(ClusterServiceTest, HearsRoutersWithoutAWordToTheWatchersOrTheDisk) {
  const auto view = service_->view();
  ASSERT_TRUE(HearRouter("127.0.0.1:6000").ok());
  EXPECT_EQ(service_->stats().routers.at("serving"), 1);
  Pass(std::chrono::seconds(2));
  EXPECT_EQ(service_->stats().routers.at("serving"), 0);
  EXPECT_EQ(service_->stats().routers.at("dead"), 1);
  Pass(std::chrono::minutes(10));
  EXPECT_EQ(service_->stats().routers.at("dead"), 0);
  EXPECT_EQ(service_->view(), view);
  EXPECT_EQ(service_->stats().saves, 0u);
}

TEST_F(ClusterServiceTest, ExcusesRoutersForWhatItCouldNotHear) {
  ASSERT_TRUE(HearRouter("127.0.0.1:6000").ok());
  now_ += std::chrono::seconds(30);
  service_->Excuse(std::chrono::seconds(30), now_);
  service_->Step(now_);
  EXPECT_EQ(service_->stats().routers.at("serving"), 1);
}

TEST_F(ClusterServiceTest, RefusesMoreRoutersThanItsLimit) {
  for (const char* const address : {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"})
    ASSERT_TRUE(HearRouter(address).ok());
  const absl::Status status = HearRouter("127.0.0.1:4");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:4 serves, but is not listed"));
  EXPECT_TRUE(HearRouter("127.0.0.1:3").ok());
}

TEST_F(ClusterServiceTest, RefusesARoutersBeatThatMakesNoSense) {
  for (const char* const address : {"", "here", "127.0.0.1:0", "0.0.0.0:80", ":80"})
    EXPECT_EQ(HearRouter(address).code(), absl::StatusCode::kInvalidArgument) << address;
  EXPECT_EQ(HearRouter(std::string(300, 'a') + ":80").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(HearRouter("127.0.0.1:80", std::string(300, 'a')).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(service_->stats().heartbeats_refused, 7u);
}

TEST_F(ClusterServiceTest, RefusesABeatThatMakesNoSense) {
  const auto refused = [&](auto&& change) {
    v1::WorkerInfo info = Info("a");
    change(info);
    return Hear(info).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](v1::WorkerInfo& info) { info.set_id(""); }));
  EXPECT_TRUE(refused([](v1::WorkerInfo& info) { info.set_id(std::string(65, 'a')); }));
  EXPECT_TRUE(refused([](v1::WorkerInfo& info) { info.set_incarnation(0); }));
  EXPECT_TRUE(refused([](v1::WorkerInfo& info) { info.set_address("here"); }));
  EXPECT_TRUE(refused([](v1::WorkerInfo& info) { info.set_address("127.0.0.1:0"); }));
  EXPECT_TRUE(refused([](v1::WorkerInfo& info) { info.set_address("0.0.0.0:80"); }));
  EXPECT_TRUE(refused(
      [](v1::WorkerInfo& info) { info.mutable_model()->set_name(std::string(65 << 10, 'x')); }));
  EXPECT_EQ(service_->stats().heartbeats_refused, 7u);
}

}  // namespace
}  // namespace conclave::services
