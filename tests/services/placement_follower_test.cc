#include "services/placement_follower.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "scheduler/epoch_keeper.h"
#include "services/convert_placement.h"

namespace conclave::services {
namespace {

using scheduler::EpochKeeper;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// The real bookkeeping, without an engine; adopts when told to step.
class FakeHolder final : public PlacementHolder {
 public:
  absl::Status Prepare(std::shared_ptr<const scheduler::Placement> placement) override {
    if (!refuses.empty()) return absl::ResourceExhaustedError(refuses);
    if (epochs.Prepare(std::move(placement)) == EpochKeeper::Prepared::kReady)
      return absl::OkStatus();
    return absl::FailedPreconditionError("too late");
  }
  absl::Status PrepareCommitted(std::shared_ptr<const scheduler::Placement> placement) override {
    lacks = unreadable;
    return Prepare(std::move(placement));
  }
  std::map<std::string, std::string> Lacks() const override { return lacks; }
  absl::Status Commit(uint64_t plan, scheduler::Epoch epoch) override {
    if (epochs.Commit(plan, epoch) == EpochKeeper::Committed::kUnknown)
      return absl::NotFoundError("unknown");
    return absl::OkStatus();
  }
  void Abort(uint64_t plan) override { epochs.Abort(plan); }
  void Release(scheduler::Epoch below) override { epochs.Release(below); }
  void SetPeers(const std::vector<worker::Peer>& now) override { peers = now; }
  scheduler::Epoch adopted() const override { return epochs.adopted_epoch(); }
  absl::StatusOr<worker::AdapterCheck> CheckAdapter(const std::string&) override {
    return absl::UnimplementedError("");
  }
  std::vector<std::string> AdaptersInUse() const override { return {}; }

  EpochKeeper epochs{{}, "a"};
  std::vector<worker::Peer> peers;
  std::string refuses;
  std::map<std::string, std::string> lacks, unreadable;
};

v1::Placement Placed(uint64_t epoch, uint64_t plan) {
  scheduler::Placement placement = scheduler::Everywhere({"a", "b"}, 2);
  placement.epoch = epoch;
  placement.plan = plan;
  return ToProto(placement);
}

class PlacementFollowerTest : public ::testing::Test {
 protected:
  bool Follow() { return follower_.Follow(view_); }
  v1::WorkerInfo& AddWorker(const std::string& id) {
    v1::WorkerInfo& worker = *view_.add_workers();
    worker.set_id(id);
    worker.set_incarnation(3);
    worker.set_exchange_address(id + ":1");
    worker.set_state(v1::WORKER_STATE_READY);
    return worker;
  }

  FakeHolder holder_;
  PlacementFollower follower_{"a", holder_};
  v1::ClusterView view_;
};

TEST_F(PlacementFollowerTest, DoesNothingWithoutAPlacement) {
  EXPECT_FALSE(Follow());
  EXPECT_EQ(holder_.epochs.held(), 0u);
  EXPECT_EQ(follower_.Report().acknowledged(), 0u);
}

TEST_F(PlacementFollowerTest, AcknowledgesWhatItHasPreparedOnce) {
  *view_.mutable_prepared() = Placed(1, 4);
  EXPECT_TRUE(Follow());
  EXPECT_EQ(follower_.Report().acknowledged(), 4u);
  EXPECT_EQ(holder_.epochs.prepared_plan(), 4u);
  EXPECT_FALSE(Follow()) << "no news";
}

TEST_F(PlacementFollowerTest, SaysWhichViewItHasFollowed) {
  EXPECT_EQ(follower_.followed(), 0u);
  view_.set_version(3);
  EXPECT_TRUE(Follow()) << "the scheduler may wait for it";
  EXPECT_EQ(follower_.followed(), 3u);
  EXPECT_FALSE(Follow());
}

TEST_F(PlacementFollowerTest, RefusesWhatItCannotPrepareAndSaysWhy) {
  holder_.refuses = "no memory";
  *view_.mutable_prepared() = Placed(1, 4);
  EXPECT_TRUE(Follow());
  EXPECT_EQ(follower_.Report().acknowledged(), 0u);
  EXPECT_EQ(follower_.Report().refused(), 4u);
  EXPECT_EQ(follower_.Report().why(), "no memory");
  EXPECT_EQ(follower_.Report().code(), 8);
}

TEST_F(PlacementFollowerTest, RefusesAPlacementThatIsNone) {
  *view_.mutable_prepared() = Placed(1, 4);
  view_.mutable_prepared()->set_owners(0, 9);
  EXPECT_TRUE(Follow());
  EXPECT_EQ(follower_.Report().refused(), 4u);
}

TEST_F(PlacementFollowerTest, CommitsWhatWasPrepared) {
  *view_.mutable_prepared() = Placed(1, 4);
  Follow();
  view_.clear_prepared();
  *view_.mutable_placement() = Placed(1, 4);
  Follow();
  EXPECT_EQ(holder_.adopted(), 0u) << "not before a step";
  EXPECT_TRUE(holder_.epochs.AdoptAtStep());
  EXPECT_EQ(holder_.adopted(), 1u);
}

TEST_F(PlacementFollowerTest, CatchesUpWithWhatWasCommittedWithoutIt) {
  *view_.mutable_placement() = Placed(5, 9);
  view_.set_released(5);
  Follow();
  EXPECT_TRUE(holder_.epochs.AdoptAtStep());
  EXPECT_EQ(holder_.adopted(), 5u);
  EXPECT_EQ(holder_.epochs.floor(), 5u);
}

TEST_F(PlacementFollowerTest, AdoptsWhatIsCommittedWithoutWhatItLacks) {
  holder_.unreadable = {{"1a", "damaged"}};
  *view_.mutable_prepared() = Placed(1, 4);
  Follow();
  EXPECT_TRUE(holder_.lacks.empty()) << "it was asked whether it can hold all";
  view_.clear_prepared();
  *view_.mutable_placement() = Placed(2, 5);
  Follow();
  EXPECT_TRUE(follower_.current());
  EXPECT_TRUE(holder_.epochs.AdoptAtStep());
  EXPECT_EQ(holder_.adopted(), 2u);
  EXPECT_EQ(holder_.lacks, holder_.unreadable);
}

TEST_F(PlacementFollowerTest, DropsWhatWasTakenBack) {
  *view_.mutable_prepared() = Placed(1, 4);
  Follow();
  view_.clear_prepared();
  Follow();
  EXPECT_EQ(holder_.epochs.held(), 0u);
  *view_.mutable_prepared() = Placed(1, 5);
  Follow();
  *view_.mutable_prepared() = Placed(1, 6);  // the view between was skipped
  Follow();
  EXPECT_EQ(holder_.epochs.prepared_plan(), 6u);
  EXPECT_EQ(follower_.Report().acknowledged(), 6u);
}

TEST_F(PlacementFollowerTest, LeavesAPlanForTheEpochThatADeathBrought) {
  *view_.mutable_prepared() = Placed(2, 4);
  Follow();
  view_.clear_prepared();
  *view_.mutable_placement() = Placed(2, 5);
  Follow();
  EXPECT_TRUE(holder_.epochs.AdoptAtStep());
  EXPECT_EQ(holder_.epochs.adopted()->plan, 5u);
  EXPECT_EQ(holder_.epochs.held(), 1u);
}

TEST_F(PlacementFollowerTest, TriesAgainWhatCouldNotBeCommitted) {
  *view_.mutable_placement() = Placed(1, 4);
  holder_.refuses = "no memory";
  Follow();
  EXPECT_FALSE(holder_.epochs.AdoptAtStep());
  holder_.refuses.clear();
  Follow();
  EXPECT_TRUE(holder_.epochs.AdoptAtStep());
}

TEST_F(PlacementFollowerTest, KeepsItsPlacementWhenASchedulerThatForgotTellsAnOlderOne) {
  *view_.mutable_placement() = Placed(7, 9);
  Follow();
  holder_.epochs.AdoptAtStep();
  *view_.mutable_placement() = Placed(3, 2);
  Follow();
  EXPECT_FALSE(holder_.epochs.AdoptAtStep());
  EXPECT_EQ(holder_.adopted(), 7u);
}

TEST_F(PlacementFollowerTest, TellsWhoElseThereIsAndWhoCounts) {
  AddWorker("a");
  AddWorker("b");
  AddWorker("c").set_state(v1::WORKER_STATE_DEAD);
  AddWorker("d").set_fenced(true);
  AddWorker("e").set_state(v1::WORKER_STATE_SUSPECT);
  AddWorker("f").clear_exchange_address();
  Follow();
  EXPECT_THAT(holder_.peers,
              ElementsAre(worker::Peer{"b", 3, "b:1", true}, worker::Peer{"c", 3, "c:1", false},
                          worker::Peer{"d", 3, "d:1", false}, worker::Peer{"e", 3, "e:1", true}));
  view_.clear_workers();
  Follow();
  EXPECT_THAT(holder_.peers, IsEmpty());
}

}  // namespace
}  // namespace conclave::services
