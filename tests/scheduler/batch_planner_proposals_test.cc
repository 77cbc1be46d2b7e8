// Proposals: what room a plan has for them, and what is left of those that were wrong.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "scheduler/batch_planner.h"

namespace conclave::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Blocks of 4 positions, and enough of everything.
constexpr BatchPlanner::Options kRoomy = {.step_tokens = 64,
                                          .prefill_chunk = 64,
                                          .max_running = 8,
                                          .max_waiting = 8,
                                          .kv_blocks = 64,
                                          .block_size = 4,
                                          .watermark_permille = 0};

class Proposals : public ::testing::Test {
 protected:
  void Start(const BatchPlanner::Options& options) {
    planner_ = std::make_unique<BatchPlanner>(options);
  }
  // Its prompt is computed, and it has one token.
  void Add(SequenceId id, int32_t prompt, int32_t max_tokens, std::vector<BlockKey> keys = {}) {
    planner_->Add(
        {.id = id, .prompt_tokens = prompt, .max_tokens = max_tokens, .keys = std::move(keys)});
    Commit(Plan());
  }
  StepPlan Plan() {
    StepPlan plan = planner_->Plan(Micros(0));
    planner_->CheckInvariants();
    return plan;
  }
  // `accepted` of each sequence that samples, in plan order; none if left out.
  std::vector<SequenceId> Commit(const StepPlan& plan, std::vector<int32_t> accepted = {}) {
    size_t samples = 0;
    for (const PlannedSequence& planned : plan.sequences) samples += planned.samples;
    auto ended = planner_->Commit(plan, std::vector<uint8_t>(samples, 0), accepted);
    planner_->CheckInvariants();
    return ended;
  }
  static std::vector<int32_t> Proposed(const StepPlan& plan) {
    std::vector<int32_t> proposed;
    for (const PlannedSequence& planned : plan.sequences) proposed.push_back(planned.proposed);
    return proposed;
  }
  int32_t Blocks(SequenceId id) const { return static_cast<int32_t>(planner_->Blocks(id).size()); }

  std::unique_ptr<BatchPlanner> planner_ = std::make_unique<BatchPlanner>(kRoomy);
};

TEST_F(Proposals, AreComputedBehindTheLastTokenOnce) {
  Add(1, 5, 20);
  planner_->Propose(1, 3);
  const StepPlan plan = Plan();
  ASSERT_EQ(plan.sequences.size(), 1u);
  EXPECT_EQ(plan.sequences[0].first, 5);
  EXPECT_EQ(plan.sequences[0].count, 4);
  EXPECT_EQ(plan.sequences[0].proposed, 3);
  EXPECT_TRUE(plan.sequences[0].samples);
  EXPECT_EQ(plan.tokens, 4);
  EXPECT_EQ(plan.proposed, 3);
  Commit(plan, {2});
  const StepPlan next = Plan();
  EXPECT_EQ(next.sequences[0].first, 8) << "5 and two that were right";
  EXPECT_EQ(next.sequences[0].count, 1);
}

TEST_F(Proposals, OfAPromptWaitUntilItDecodes) {
  Start([] {
    auto options = kRoomy;
    options.prefill_chunk = 4;
    return options;
  }());
  planner_->Add({.id = 1, .prompt_tokens = 6, .max_tokens = 9});
  planner_->Propose(1, 3);
  EXPECT_THAT(Proposed(Plan()), ElementsAre(0));
}

TEST_F(Proposals, LeaveRoomForTheTokenBehindThem) {
  for (const int32_t max_tokens : {1, 2, 3, 4, 5, 6}) {
    SCOPED_TRACE(max_tokens);
    Start(kRoomy);
    Add(1, 5, max_tokens + 1);  // one is sampled
    planner_->Propose(1, 4);
    const StepPlan plan = Plan();
    const int32_t room = std::min(max_tokens - 1, 4);
    EXPECT_THAT(Proposed(plan), ElementsAre(room));
    const auto ended = Commit(plan, {room});
    EXPECT_EQ(ended.size(), max_tokens <= 5 ? 1u : 0u);
  }
}

TEST_F(Proposals, GetTheTokensThatPromptsLeave) {
  for (const int32_t step_tokens : {12, 13, 14, 17}) {
    SCOPED_TRACE(step_tokens);
    auto options = kRoomy;
    options.step_tokens = step_tokens;
    Start(options);
    Add(1, 2, 20);
    Add(2, 2, 20);
    planner_->Add({.id = 3, .prompt_tokens = 10, .max_tokens = 2});
    planner_->Propose(1, 2);
    planner_->Propose(2, 2);
    const StepPlan plan = Plan();
    const int32_t left = step_tokens - 12;
    EXPECT_THAT(Proposed(plan), ElementsAre(std::min(left, 2), std::clamp(left - 2, 0, 2), 0));
    EXPECT_EQ(plan.sequences[2].count, 10);
  }
}

TEST_F(Proposals, OfAStepAreLimited) {
  for (const int32_t limit : {0, 1, 4, 5, 9}) {
    SCOPED_TRACE(limit);
    auto options = kRoomy;
    options.step_proposals = limit;
    Start(options);
    Add(1, 2, 20);
    Add(2, 2, 20);
    planner_->Propose(1, 4);
    planner_->Propose(2, 4);
    EXPECT_THAT(Proposed(Plan()), ElementsAre(std::min(limit, 4), std::clamp(limit - 4, 0, 4)));
  }
}

TEST_F(Proposals, GetBlocksThatNobodyHoldsAndGiveThemBackIfTheyWereWrong) {
  auto options = kRoomy;
  options.kv_blocks = 4;
  Start(options);
  Add(1, 3, 13);  // one block, full with the first token
  Add(2, 5, 3);   // two; the first one gets a token, too
  ASSERT_EQ(planner_->stats().blocks_used, 3);
  planner_->Propose(1, 8);
  const StepPlan plan = Plan();
  EXPECT_THAT(Proposed(plan), ElementsAre(3, 0)) << "for more there is no block";
  EXPECT_THAT(plan.preempted, IsEmpty());
  EXPECT_EQ(planner_->stats().blocks_used, 4);
  Commit(plan, {0, 0});
  EXPECT_EQ(Blocks(1), 2) << "its next position is in it";
  planner_->Propose(1, 3);
  const StepPlan next = Plan();
  EXPECT_THAT(Proposed(next), ElementsAre(2, 0));
  Commit(next, {2, 0});
  EXPECT_EQ(Blocks(1), 2);
}

TEST_F(Proposals, GiveBackEveryBlockThatOnlyTheyNeeded) {
  Add(1, 2, 40);
  planner_->Propose(1, 16);
  const StepPlan plan = Plan();
  EXPECT_EQ(Blocks(1), 5);
  Commit(plan, {0});
  EXPECT_EQ(Blocks(1), 1);
  EXPECT_EQ(planner_->stats().blocks_used, 1);
}

TEST_F(Proposals, OfAnAbandonedStepAreForgottenAndTheirBlocksBack) {
  Add(1, 2, 40);
  planner_->Propose(1, 16);
  planner_->Abandon(Plan());
  planner_->CheckInvariants();
  EXPECT_EQ(Blocks(1), 1);
  const StepPlan again = Plan();
  EXPECT_THAT(Proposed(again), ElementsAre(0));
  EXPECT_EQ(again.sequences[0].first, 2);
  EXPECT_EQ(again.sequences[0].count, 1);
}

TEST_F(Proposals, WaitForAPreemptedSequenceToDecodeAgain) {
  auto options = kRoomy;
  options.kv_blocks = 4;
  Start(options);
  Add(1, 3, 9);
  Add(2, 4, 9);
  planner_->SetPaused(2, true);
  planner_->Propose(2, 2);
  for (int i = 0; i < 8 && planner_->stats().preemptions == 0; ++i) {
    planner_->Propose(1, 2);
    const StepPlan plan = Plan();
    Commit(plan, {plan.sequences[0].proposed});
  }
  EXPECT_EQ(planner_->stats().preemptions, 1u);
  planner_->SetPaused(2, false);
  planner_->Drop(1);
  EXPECT_THAT(Proposed(Plan()), ElementsAre(0)) << "it is computed again first";
}

TEST_F(Proposals, ThatWereRightFillBlocksThatOthersFind) {
  const auto key = [](uint64_t n) { return BlockKey{{n, n, n, n}}; };
  Add(1, 4, 20, {key(1)});
  planner_->Propose(1, 7);
  const StepPlan plan = Plan();
  EXPECT_EQ(Blocks(1), 3);
  for (const uint64_t n : {2, 3}) planner_->AddKey(1, key(n));
  Commit(plan, {6});  // 5 + 7 tokens, the last of which is not computed
  planner_->Add({.id = 2, .prompt_tokens = 13, .max_tokens = 1, .keys = {key(1), key(2), key(3)}});
  const StepPlan next = Plan();
  ASSERT_EQ(next.sequences.size(), 2u);
  EXPECT_EQ(next.sequences[1].first, 8) << "the third block lacks its last position";
}

TEST_F(Proposals, TakeNoBlockThatIsYetToBeCopied) {
  auto options = kRoomy;
  options.kv_blocks = 5;
  Start(options);
  const BlockKey key{{7, 7, 7, 7}};
  Add(1, 3, 9);         // one block
  Add(2, 4, 1, {key});  // ends at once: its block is cached
  ASSERT_EQ(planner_->stats().blocks_cached, 1);
  planner_->Add({.id = 3, .prompt_tokens = 4, .max_tokens = 2, .keys = {key}});
  planner_->Propose(1, 8);
  const StepPlan plan = Plan();
  ASSERT_EQ(plan.copies.size(), 1u);
  EXPECT_THAT(Proposed(plan), ElementsAre(3, 0)) << "what its own blocks have room for";
  EXPECT_EQ(planner_->stats().evictions, 0u);
}

TEST_F(Proposals, AreNobodysOfUnknownIds) {
  planner_->Propose(9, 3);
  EXPECT_TRUE(planner_->idle());
}

TEST_F(Proposals, BrokenPromisesAreNoticed) {
  Add(1, 2, 9);
  EXPECT_DEATH(planner_->Propose(1, -1), "tokens >= 0");
  planner_->Propose(1, 2);
  const StepPlan plan = Plan();
  EXPECT_DEATH(Commit(plan, {3}), "also <= planned.proposed");
  EXPECT_DEATH(Commit(plan, {1, 1}), "accepted.size");
}

}  // namespace
}  // namespace conclave::scheduler
