#include "scheduler/epoch_keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Committed = EpochKeeper::Committed;
using Prepared = EpochKeeper::Prepared;
using Verdict = EpochKeeper::Verdict;

// Two experts; `first` and `second` say which of the workers "me" and "other" owns each.
EpochKeeper::Shared Placed(Epoch epoch, uint64_t plan, const std::string& first,
                           const std::string& second) {
  const auto index = [](const std::string& worker) { return worker == "me" ? 0 : 1; };
  return std::make_shared<const Placement>(Placement{.epoch = epoch,
                                                     .plan = plan,
                                                     .workers = {"me", "other"},
                                                     .owners = {{index(first)}, {index(second)}}});
}

class EpochKeeperTest : public testing::Test {
 protected:
  void CommitAndAdopt(const EpochKeeper::Shared& placement) {
    ASSERT_EQ(keeper_.Prepare(placement), Prepared::kReady);
    ASSERT_EQ(keeper_.Commit(placement->plan, placement->epoch), Committed::kCommitted);
    ASSERT_TRUE(keeper_.AdoptAtStep());
  }

  EpochKeeper keeper_{{.max_held = 4}, "me"};
};

TEST_F(EpochKeeperTest, KnowsNothingAtFirst) {
  EXPECT_EQ(keeper_.adopted(), nullptr);
  EXPECT_EQ(keeper_.adopted_epoch(), 0u);
  EXPECT_EQ(keeper_.Judge(0, 0, 0), Verdict::kWrongEpoch);
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kWrongEpoch);
  EXPECT_FALSE(keeper_.AdoptAtStep());
}

TEST_F(EpochKeeperTest, ServesWhatIsPreparedForAHomeThatHeardOfTheCommitFirst) {
  keeper_.Prepare(Placed(1, 1, "me", "other"));
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kServe);
  EXPECT_EQ(keeper_.Judge(1, 1, 1), Verdict::kNotOwned);
  EXPECT_EQ(keeper_.Judge(1, 1, 9), Verdict::kNotOwned);
  EXPECT_EQ(keeper_.adopted(), nullptr) << "but does not step by it";
}

TEST_F(EpochKeeperTest, AdoptsOnlyAtAStepAndOnlyWhatIsCommitted) {
  keeper_.Prepare(Placed(1, 1, "me", "other"));
  EXPECT_FALSE(keeper_.AdoptAtStep());
  EXPECT_EQ(keeper_.Commit(1, 1), Committed::kCommitted);
  EXPECT_EQ(keeper_.adopted_epoch(), 0u);
  EXPECT_TRUE(keeper_.AdoptAtStep());
  EXPECT_EQ(keeper_.adopted_epoch(), 1u);
  EXPECT_FALSE(keeper_.AdoptAtStep());
}

TEST_F(EpochKeeperTest, ServesTheOldBesideTheNewUntilItIsReleased) {
  CommitAndAdopt(Placed(1, 1, "me", "other"));
  CommitAndAdopt(Placed(2, 2, "other", "me"));
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kServe);
  EXPECT_EQ(keeper_.Judge(2, 2, 1), Verdict::kServe);
  EXPECT_THAT(keeper_.Needed(), ElementsAre(0, 1));
  keeper_.Release(2);
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kWrongEpoch);
  EXPECT_EQ(keeper_.Judge(2, 2, 1), Verdict::kServe);
  EXPECT_THAT(keeper_.Needed(), ElementsAre(1));
  EXPECT_EQ(keeper_.held(), 1u);
}

TEST_F(EpochKeeperTest, KeepsWhatItStepsByThoughOthersMayNotUseIt) {
  CommitAndAdopt(Placed(1, 1, "me", "other"));
  keeper_.Prepare(Placed(2, 2, "other", "me"));
  keeper_.Commit(2, 2);
  keeper_.Release(2);
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kWrongEpoch);
  EXPECT_THAT(keeper_.Needed(), ElementsAre(0, 1)) << "the step that runs needs its experts";
  keeper_.AdoptAtStep();
  EXPECT_THAT(keeper_.Needed(), ElementsAre(1));
}

TEST_F(EpochKeeperTest, PreparesAPlanOnceHoweverOftenItIsTold) {
  const EpochKeeper::Shared placement = Placed(1, 1, "me", "other");
  EXPECT_EQ(keeper_.Prepare(placement), Prepared::kReady);
  EXPECT_EQ(keeper_.Prepare(placement), Prepared::kReady);
  EXPECT_EQ(keeper_.held(), 1u);
  EXPECT_EQ(keeper_.prepared_plan(), 1u);
}

TEST_F(EpochKeeperTest, AbortLeavesWhatWasThere) {
  CommitAndAdopt(Placed(1, 1, "me", "other"));
  keeper_.Prepare(Placed(2, 2, "other", "me"));
  EXPECT_THAT(keeper_.Staged(), ElementsAre(1));
  keeper_.Abort(2);
  EXPECT_THAT(keeper_.Staged(), IsEmpty());
  EXPECT_THAT(keeper_.Needed(), ElementsAre(0));
  EXPECT_EQ(keeper_.Judge(2, 2, 1), Verdict::kWrongEpoch);
  EXPECT_EQ(keeper_.Commit(2, 2), Committed::kUnknown);
  EXPECT_EQ(keeper_.Prepare(Placed(2, 2, "other", "me")), Prepared::kStale) << "its time is over";
}

TEST_F(EpochKeeperTest, AbortOfAnotherPlanOrOfACommittedOneDoesNothing) {
  keeper_.Prepare(Placed(1, 1, "me", "other"));
  keeper_.Abort(7);
  EXPECT_EQ(keeper_.prepared_plan(), 1u);
  keeper_.Commit(1, 1);
  keeper_.Abort(1);
  EXPECT_TRUE(keeper_.AdoptAtStep());
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kServe);
}

TEST_F(EpochKeeperTest, ALaterPlanTakesThePlaceOfOneThatIsNotCommitted) {
  keeper_.Prepare(Placed(1, 1, "me", "other"));
  EXPECT_EQ(keeper_.Prepare(Placed(1, 2, "other", "me")), Prepared::kReady);
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kWrongEpoch) << "of another plan of that number";
  EXPECT_EQ(keeper_.Judge(1, 2, 1), Verdict::kServe);
  EXPECT_EQ(keeper_.Commit(1, 1), Committed::kUnknown);
  EXPECT_EQ(keeper_.Commit(2, 1), Committed::kCommitted);
}

TEST_F(EpochKeeperTest, RefusesPlansAndEpochsOfThePast) {
  CommitAndAdopt(Placed(3, 5, "me", "other"));
  EXPECT_EQ(keeper_.Prepare(Placed(4, 4, "me", "other")), Prepared::kStale);
  EXPECT_EQ(keeper_.Prepare(Placed(3, 6, "me", "other")), Prepared::kStale);
  EXPECT_EQ(keeper_.Prepare(Placed(2, 7, "me", "other")), Prepared::kStale);
  EXPECT_EQ(keeper_.Prepare(Placed(4, 8, "me", "other")), Prepared::kReady);
  EpochKeeper fenced({}, "me");
  fenced.Release(9);
  EXPECT_EQ(fenced.Prepare(Placed(8, 1, "me", "other")), Prepared::kStale);
  EXPECT_EQ(fenced.Prepare(Placed(9, 2, "me", "other")), Prepared::kReady);
}

TEST_F(EpochKeeperTest, CommitOfWhatWasNeverPreparedIsUnknown) {
  EXPECT_EQ(keeper_.Commit(1, 1), Committed::kUnknown);
  keeper_.Prepare(Placed(2, 1, "me", "other"));
  EXPECT_EQ(keeper_.Commit(1, 1), Committed::kUnknown) << "another epoch";
  EXPECT_EQ(keeper_.Commit(1, 2), Committed::kCommitted);
  EXPECT_EQ(keeper_.Commit(1, 2), Committed::kCommitted) << "told again";
}

TEST_F(EpochKeeperTest, SkipsAnEpochThatWasCommittedBetweenTwoSteps) {
  CommitAndAdopt(Placed(1, 1, "me", "other"));
  keeper_.Prepare(Placed(2, 2, "me", "me"));
  keeper_.Commit(2, 2);
  keeper_.Prepare(Placed(3, 3, "other", "me"));
  keeper_.Commit(3, 3);
  EXPECT_TRUE(keeper_.AdoptAtStep());
  EXPECT_EQ(keeper_.adopted_epoch(), 3u);
  EXPECT_EQ(keeper_.Judge(2, 2, 0), Verdict::kServe) << "others may step by it";
}

TEST_F(EpochKeeperTest, HoldsOnlySoMany) {
  for (Epoch epoch = 1; epoch <= 4; ++epoch) CommitAndAdopt(Placed(epoch, epoch, "me", "other"));
  EXPECT_EQ(keeper_.held(), 4u);
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kServe);
  CommitAndAdopt(Placed(5, 5, "me", "other"));
  EXPECT_EQ(keeper_.held(), 4u);
  EXPECT_EQ(keeper_.Judge(1, 1, 0), Verdict::kWrongEpoch);
  EXPECT_EQ(keeper_.Judge(2, 2, 0), Verdict::kServe);
}

}  // namespace
}  // namespace conclave::scheduler
