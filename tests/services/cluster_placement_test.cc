// The scheduler's changes of the placement with virtual time and no network: what workers report,
// what views then tell, and what a restart finds.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "services/cluster_service.h"
#include "tests/services/testing/stepped_cluster_service.h"

namespace conclave::services {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A scheduler among workers "a", "b", ... that beat every time anything happens, and do at once
// what views tell unless they are among those that do not.
class ClusterPlacementTest : public testing::SteppedCluster {
 protected:
  explicit ClusterPlacementTest(int32_t workers = 2) : SteppedCluster(workers) {}

  void Stop(const std::string& id) { silent_.insert(id); }
  void Continue(const std::string& id) { silent_.erase(id); }

  void Beat() override {
    for (const auto& [id, beat] : beats_) {
      if (silent_.contains(id)) continue;
      EXPECT_TRUE(service_->Hear(beat, now_).ok());
    }
  }
  void Follow(const v1::ClusterView& view) override {
    for (auto& [id, beat] : beats_) {
      if (silent_.contains(id) || slow_.contains(id)) continue;
      beat.mutable_placement()->set_acknowledged(view.prepared().plan());
      beat.mutable_worker()->set_epoch(view.placement().epoch());
    }
  }

  const v1::ClusterView& view() {
    seen_ = service_->view();
    return *seen_;
  }
  v1::WorkerState StateOf(const std::string& id) {
    for (const v1::WorkerInfo& worker : view().workers()) {
      if (worker.id() == id) return worker.state();
    }
    return v1::WORKER_STATE_UNSPECIFIED;
  }
  bool Fenced(const std::string& id) {
    for (const v1::WorkerInfo& worker : view().workers()) {
      if (worker.id() == id) return worker.fenced();
    }
    return false;
  }
  absl::StatusOr<uint64_t> Apply(std::vector<std::vector<int32_t>> owners, int32_t workers = 2) {
    ended_.reset();
    return service_->Place(
        Plan{.workers = workers, .layers = 1, .experts = 4, .owners = std::move(owners)},
        [this](const absl::StatusOr<scheduler::Epoch>& end) { ended_ = end; }, now_);
  }

  std::set<std::string> silent_;  // are not heard and follow nothing
  std::set<std::string> slow_;    // beat, but follow nothing
  std::shared_ptr<const v1::ClusterView> seen_;
  std::optional<absl::StatusOr<scheduler::Epoch>> ended_;
};

TEST_F(ClusterPlacementTest, WaitsForItsWorkersThenSpreadsTheExperts) {
  Start("a");
  Rounds(5);
  EXPECT_FALSE(view().has_prepared());
  EXPECT_FALSE(view().has_placement());
  EXPECT_EQ(StateOf("a"), v1::WORKER_STATE_JOINING);
  Start("b");
  Round();
  EXPECT_TRUE(view().has_prepared());
  Rounds(4);
  EXPECT_FALSE(view().has_prepared());
  EXPECT_EQ(view().placement().epoch(), 1u);
  EXPECT_THAT(view().placement().workers(), ElementsAre("a", "b"));
  EXPECT_THAT(view().placement().owners(), ElementsAre(0, 0, 1, 1));
  EXPECT_EQ(view().released(), 1u);
  EXPECT_EQ(StateOf("a"), v1::WORKER_STATE_READY);
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_READY);
}

TEST_F(ClusterPlacementTest, TellsThatAWorkerIsReadyOnlyOnceItHasAdopted) {
  Start("a");
  Start("b");
  slow_.insert("b");
  Rounds(3);
  EXPECT_TRUE(view().has_prepared());
  EXPECT_EQ(StateOf("a"), v1::WORKER_STATE_JOINING);
  beats_["b"].mutable_placement()->set_acknowledged(view().prepared().plan());
  Rounds(3);
  EXPECT_EQ(view().placement().epoch(), 1u);
  EXPECT_EQ(StateOf("a"), v1::WORKER_STATE_READY);
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_JOINING);
  EXPECT_EQ(view().released(), 0u);
  slow_.clear();
  Rounds(3);
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_READY);
  EXPECT_EQ(view().released(), 1u);
}

TEST_F(ClusterPlacementTest, AppliesAnOperatorsPlanWhileWorkersStayReady) {
  Start("a");
  Start("b");
  Rounds(5);
  ASSERT_EQ(*Apply({{1}, {0, 1}, {0}, {0}}), 2u);
  Round();
  EXPECT_EQ(view().prepared().plan(), 2u);
  EXPECT_EQ(view().placement().epoch(), 1u);
  EXPECT_FALSE(ended_.has_value());
  EXPECT_EQ(Apply({{0}, {0}, {0}, {0}}).status().code(), absl::StatusCode::kAborted);
  ASSERT_EQ(ended_, std::nullopt);
  for (int i = 0; i < 4; ++i) {
    Round();
    EXPECT_EQ(StateOf("a"), v1::WORKER_STATE_READY);
    EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_READY);
  }
  EXPECT_EQ(view().placement().epoch(), 2u);
  EXPECT_THAT(view().placement().copies(), ElementsAre(1, 2, 1, 1));
  EXPECT_EQ(view().released(), 2u);
}

TEST_F(ClusterPlacementTest, AnswersAnOperatorWhenAllServeByThePlan) {
  Start("a");
  Start("b");
  Rounds(5);
  ASSERT_TRUE(Apply({{1}, {1}, {0}, {0}}).ok());
  slow_.insert("b");
  Rounds(5);
  EXPECT_FALSE(ended_.has_value());
  slow_.clear();
  Rounds(5);
  ASSERT_TRUE(ended_.has_value());
  EXPECT_EQ(**ended_, 2u);
}

TEST_F(ClusterPlacementTest, AnswersAnOperatorThatThePlanWasTakenBack) {
  Start("a");
  Start("b");
  Rounds(5);
  ASSERT_TRUE(Apply({{1}, {1}, {0}, {0}}).ok());
  slow_.insert("b");
  beats_["b"].mutable_placement()->set_refused(2);
  beats_["b"].mutable_placement()->set_why("no memory");
  Rounds(2);
  ASSERT_TRUE(ended_.has_value());
  EXPECT_EQ(ended_->status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(ended_->status().message()), HasSubstr("worker b cannot: no memory"));
  EXPECT_EQ(view().placement().epoch(), 1u);
  EXPECT_FALSE(view().has_prepared());
}

TEST_F(ClusterPlacementTest, RefusesAPlanThatIsNotForThisCluster) {
  EXPECT_EQ(Apply({{0}, {0}, {0}, {0}}).status().code(), absl::StatusCode::kFailedPrecondition);
  Start("a");
  Start("b");
  Rounds(5);
  EXPECT_EQ(Apply({{0}, {0}, {0}, {0}}, 3).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(service_
                ->Place({.workers = 2, .layers = 2, .experts = 2, .owners = {{0}, {0}, {0}, {0}}},
                        {}, now_)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  service_->CloseWatches();
  EXPECT_EQ(Apply({{0}, {0}, {0}, {0}}).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ClusterPlacementTest, GivesTheExpertsOfADeadWorkerToTheOthers) {
  Start("a");
  Start("b");
  Rounds(5);
  Stop("b");
  Rounds(19);
  EXPECT_EQ(view().placement().epoch(), 1u);
  Rounds(2);
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_DEAD);
  EXPECT_EQ(view().placement().epoch(), 2u);
  EXPECT_THAT(view().placement().workers(), ElementsAre("a"));
  EXPECT_THAT(view().placement().owners(), ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(service_->stats().placement.emergencies, 1u);
}

TEST_F(ClusterPlacementTest, GivesThemAwayAtOnceWhenPeersLostIt) {
  Start("a");
  Start("b");
  Rounds(5);
  Stop("b");
  v1::LostPeer& lost = *beats_["a"].add_lost();
  lost.set_id("b");
  lost.set_incarnation(1);
  Rounds(2);
  EXPECT_EQ(view().placement().epoch(), 1u);
  Round();
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_DEAD);
  EXPECT_EQ(view().placement().epoch(), 2u);
}

TEST_F(ClusterPlacementTest, FencesAWorkerThatWasDeadUntilItHasAdopted) {
  Start("a");
  Start("b");
  Rounds(5);
  Stop("b");
  Rounds(22);
  Continue("b");
  slow_.insert("b");
  Round();
  EXPECT_TRUE(Fenced("b"));
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_JOINING);
  slow_.clear();
  Rounds(2);
  EXPECT_FALSE(Fenced("b"));
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_READY);
  EXPECT_EQ(view().placement().epoch(), 2u) << "it has no experts until a placement names it";
}

TEST_F(ClusterPlacementTest, KeepsItsPlacementOverARestart) {
  Start("a");
  Start("b");
  Rounds(5);
  const std::string before = view().SerializeAsString();
  Restart();
  EXPECT_EQ(view().SerializeAsString(), before);
  Rounds(50);
  EXPECT_EQ(view().SerializeAsString(), before) << "nor does it make a first one again";
}

TEST_F(ClusterPlacementTest, GoesOnWithAPlanThatARestartInterrupted) {
  Start("a");
  Start("b");
  Rounds(5);
  ASSERT_TRUE(Apply({{1}, {1}, {0}, {0}}).ok());
  Round();
  ASSERT_TRUE(view().has_prepared());
  Restart();
  EXPECT_EQ(view().prepared().plan(), 2u);
  Rounds(4);
  EXPECT_EQ(view().placement().epoch(), 2u);
  EXPECT_EQ(view().released(), 2u);
}

TEST_F(ClusterPlacementTest, TellsNoCommitThatIsNotOnDisk) {
  Start("a");
  Start("b");
  Rounds(5);
  Restart({"scheduler.save=error@2"});
  Round();
  ASSERT_TRUE(Apply({{1}, {1}, {0}, {0}}).ok());
  Round();  // the first save: it is prepared
  Round();  // the second, which fails, would be the commit
  EXPECT_EQ(service_->stats().saves_failed, 1u);
  EXPECT_EQ(view().placement().epoch(), 1u);
  EXPECT_FALSE(ended_.has_value());
  Round(milliseconds(1000));
  EXPECT_EQ(view().placement().epoch(), 2u);
}

TEST_F(ClusterPlacementTest, PlacesAsWantedWhenTheSameWorkersAreStartedAgain) {
  Start("a");
  Start("b");
  Rounds(5);
  ASSERT_TRUE(Apply({{1}, {0}, {1}, {0, 1}}).ok());
  Rounds(5);
  ASSERT_EQ(view().placement().epoch(), 2u);
  now_ += std::chrono::minutes(1);
  Restart();
  Start("a");
  Start("b");
  Rounds(8);
  EXPECT_GT(view().placement().epoch(), 2u);
  EXPECT_THAT(view().placement().owners(), ElementsAre(1, 0, 1, 0, 1));
}

TEST_F(ClusterPlacementTest, AnOperatorsPlanBeforeTheFirstOneStands) {
  Start("a");
  Round();
  ASSERT_TRUE(Apply({{0}, {0}, {0}, {0}}, 1).ok());
  Rounds(4);
  Start("b");
  Rounds(8);
  EXPECT_EQ(view().placement().epoch(), 1u);
  EXPECT_THAT(view().placement().workers(), ElementsAre("a"));
}

TEST_F(ClusterPlacementTest, TellsTheEndOfAPlanThatAnotherHasFollowed) {
  Start("a");
  Start("b");
  Rounds(5);
  std::vector<absl::StatusOr<scheduler::Epoch>> ends;
  const auto apply = [&](int32_t owner) {
    return service_->Place(
        {.workers = 2, .layers = 1, .experts = 4, .owners = {{owner}, {0}, {1}, {1}}},
        [&](const auto& end) { ends.push_back(end); }, now_);
  };
  ASSERT_TRUE(apply(1).ok());
  // All has happened by the time that the next one is opened, but that anybody was told.
  while (view().released() < 2) {
    Round();
    if (apply(0).ok()) break;
  }
  Rounds(6);
  ASSERT_EQ(ends.size(), 2u);
  for (const auto& end : ends) EXPECT_TRUE(end.ok()) << end.status();
}

TEST_F(ClusterPlacementTest, PlacesAnewWhenAllOfAStoredClusterAreStarted) {
  Start("a");
  Start("b");
  Rounds(5);
  beats_.clear();
  options_.placement.workers = 3;
  now_ += std::chrono::minutes(1);
  Restart();
  for (const char* id : {"a", "b", "c"}) {
    Start(id);
    beats_[id].mutable_worker()->set_incarnation(2);
    Round();
  }
  Rounds(6);
  EXPECT_THAT(view().placement().workers(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(view().placement().epoch(), 2u);
}

TEST_F(ClusterPlacementTest, AWorkerThatJoinsLaterServesWithoutExperts) {
  Start("a");
  Start("b");
  Rounds(5);
  Start("c");
  Rounds(3);
  EXPECT_EQ(StateOf("c"), v1::WORKER_STATE_READY);
  EXPECT_THAT(view().placement().workers(), ElementsAre("a", "b"));
}

class UnplacedTest : public ClusterPlacementTest {
 protected:
  UnplacedTest() : ClusterPlacementTest(0) {}
};

TEST_F(UnplacedTest, LeavesWorkersAloneWhoHaveAllExperts) {
  Start("a");
  Start("b");
  Rounds(3);
  EXPECT_FALSE(view().has_placement());
  EXPECT_EQ(StateOf("a"), v1::WORKER_STATE_READY);
  Stop("b");
  Rounds(25);
  EXPECT_EQ(view().epoch(), 0u);
}

TEST_F(UnplacedTest, OneThatNeedsExpertsJoinsOnlyOnceItHasSome) {
  Start("a");
  Start("b");
  beats_["b"].mutable_worker()->set_placed(true);
  Rounds(3);
  EXPECT_EQ(StateOf("a"), v1::WORKER_STATE_READY);
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_JOINING);
  ASSERT_TRUE(Apply({{0}, {0}, {1}, {1}}).ok());
  Rounds(4);
  EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_READY);
}

TEST_F(UnplacedTest, StaysReadyWhileTheFirstPlacementComesIntoForce) {
  Start("a");
  Start("b");
  Rounds(3);
  ASSERT_TRUE(Apply({{1}, {1}, {0}, {0}}).ok());
  slow_.insert("b");
  for (int i = 0; i < 8; ++i) {
    if (i == 2) beats_["b"].mutable_placement()->set_acknowledged(1);
    if (i == 5) slow_.clear();
    Round();
    EXPECT_EQ(StateOf("a"), v1::WORKER_STATE_READY);
    EXPECT_EQ(StateOf("b"), v1::WORKER_STATE_READY);
  }
  EXPECT_EQ(view().released(), 1u);
}

}  // namespace
}  // namespace conclave::services
