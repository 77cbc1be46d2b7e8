#include "scheduler/batch_planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace conclave::scheduler {

void PrintTo(const PlannedSequence& p, std::ostream* out) {
  *out << "{id " << p.id << ", first " << p.first << ", count " << p.count << ", samples "
       << p.samples << "}";
}

bool operator==(const PlannedSequence& a, const PlannedSequence& b) {
  return a.id == b.id && a.first == b.first && a.count == b.count && a.samples == b.samples;
}

bool operator==(const DroppedSequence& a, const DroppedSequence& b) {
  return a.id == b.id && a.reason == b.reason;
}

namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Admission = BatchPlanner::Admission;

// A planner with a clock that stands still and a model that never ends a sequence by itself.
class Batch {
 public:
  explicit Batch(const BatchPlanner::Options& options) : planner(options) {}

  Admission Add(SequenceId id, int32_t prompt, int32_t max_tokens) {
    return planner.Add({.id = id, .prompt_tokens = prompt, .max_tokens = max_tokens});
  }

  // One step: plan and commit. `stops` end with the token they sample.
  StepPlan Step(const std::set<SequenceId>& stops = {}) {
    StepPlan plan = planner.Plan(now);
    planner.CheckInvariants();
    if (!plan.sequences.empty()) Commit(plan, stops);
    return plan;
  }

  void Commit(const StepPlan& plan, const std::set<SequenceId>& stops = {}) {
    std::vector<uint8_t> ends;
    for (const PlannedSequence& planned : plan.sequences) {
      if (planned.samples) ends.push_back(stops.contains(planned.id));
    }
    ended = planner.Commit(plan, ends);
    planner.CheckInvariants();
  }

  BatchPlanner planner;
  Micros now{0};
  std::vector<SequenceId> ended;  // by the last commit
};

// Blocks of 4 positions, and enough of everything else.
constexpr BatchPlanner::Options kRoomy = {.step_tokens = 64,
                                          .prefill_chunk = 64,
                                          .max_running = 8,
                                          .max_waiting = 8,
                                          .kv_blocks = 64,
                                          .block_size = 4,
                                          .watermark_permille = 0};

BatchPlanner::Options With(void (*change)(BatchPlanner::Options&)) {
  BatchPlanner::Options options = kRoomy;
  change(options);
  return options;
}

TEST(BatchPlanner, RunsAPromptThenOneTokenPerStep) {
  Batch batch(kRoomy);
  batch.Add(1, 6, 3);
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 0, 6, true}));
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 6, 1, true}));
  EXPECT_THAT(batch.ended, IsEmpty());
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 7, 1, true}));
  EXPECT_THAT(batch.ended, ElementsAre(1));
  EXPECT_EQ(batch.planner.stats().blocks_used, 0);
  EXPECT_TRUE(batch.planner.idle());
}

TEST(BatchPlanner, EndsWhenTheModelSaysSo) {
  Batch batch(kRoomy);
  batch.Add(1, 2, 100);
  batch.Step();
  batch.Step({1});
  EXPECT_THAT(batch.ended, ElementsAre(1));
  EXPECT_EQ(batch.planner.stats().blocks_used, 0);
}

TEST(BatchPlanner, ScoringEndsWithThePromptAndNeverSamples) {
  Batch batch(With([](auto& o) { o.prefill_chunk = 4; }));
  batch.Add(1, 6, 0);
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 0, 4, false}));
  EXPECT_THAT(batch.ended, IsEmpty());
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 4, 2, false}));
  EXPECT_THAT(batch.ended, ElementsAre(1));
}

TEST(BatchPlanner, ASequenceMayAskForSmallerChunksNotForLargerOnes) {
  BatchPlanner planner(With([](auto& o) { o.prefill_chunk = 8; }));
  planner.Add({.id = 1, .prompt_tokens = 20, .max_tokens = 1, .prefill_chunk = 3});
  planner.Add({.id = 2, .prompt_tokens = 20, .max_tokens = 1, .prefill_chunk = 9});
  EXPECT_THAT(planner.Plan(Micros(0)).sequences,
              ElementsAre(PlannedSequence{1, 0, 3, false}, PlannedSequence{2, 0, 8, false}));
}

TEST(BatchPlanner, CutsAPromptIntoChunksAndSamplesAfterTheLast) {
  for (const int32_t prompt : {15, 16, 17}) {
    SCOPED_TRACE(prompt);
    Batch batch(With([](auto& o) { o.prefill_chunk = 16; }));
    batch.Add(1, prompt, 5);
    const StepPlan first = batch.Step();
    if (prompt <= 16) {
      EXPECT_THAT(first.sequences, ElementsAre(PlannedSequence{1, 0, prompt, true}));
    } else {
      EXPECT_THAT(first.sequences, ElementsAre(PlannedSequence{1, 0, 16, false}));
      EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 16, 1, true}));
    }
  }
}

TEST(BatchPlanner, GoesOnWithWhatWasGeneratedElsewhere) {
  Batch batch(With([](auto& o) { o.prefill_chunk = 4; }));
  const auto admission =
      batch.planner.Add({.id = 1, .prompt_tokens = 3, .max_tokens = 5, .generated = 3});
  ASSERT_EQ(admission, Admission::kAdmitted);
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 0, 4, false}));
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 4, 2, true}));
  EXPECT_THAT(batch.ended, IsEmpty());
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 6, 1, true}));
  EXPECT_THAT(batch.ended, ElementsAre(1));
}

TEST(BatchPlanner, KeepsTheTokenBudgetOfAStep) {
  for (const int32_t second : {7, 8, 9}) {
    SCOPED_TRACE(second);
    Batch batch(With([](auto& o) { o.step_tokens = 16; }));
    batch.Add(1, 8, 5);
    batch.Add(2, second, 5);
    const StepPlan plan = batch.Step();
    EXPECT_EQ(plan.tokens, 8 + std::min(second, 8));
    EXPECT_EQ(plan.sequences[1].samples, second <= 8);
  }
}

TEST(BatchPlanner, PlansDecodesBeforePromptsEachInOrderOfArrival) {
  Batch batch(With([](auto& o) { o.step_tokens = 12; }));
  batch.Add(1, 2, 9);
  batch.Add(2, 3, 9);
  batch.Step();
  batch.Add(3, 20, 9);
  batch.Add(4, 20, 9);
  EXPECT_THAT(batch.Step().sequences,
              ElementsAre(PlannedSequence{1, 2, 1, true}, PlannedSequence{2, 3, 1, true},
                          PlannedSequence{3, 0, 10, false}));
  EXPECT_THAT(batch.Step().sequences,
              ElementsAre(PlannedSequence{1, 3, 1, true}, PlannedSequence{2, 4, 1, true},
                          PlannedSequence{3, 10, 10, true}));
  EXPECT_THAT(batch.Step().sequences,
              ElementsAre(PlannedSequence{1, 4, 1, true}, PlannedSequence{2, 5, 1, true},
                          PlannedSequence{3, 20, 1, true}, PlannedSequence{4, 0, 9, false}));
}

TEST(BatchPlanner, AOneTokenPromptDoesNotOvertakeAnOlderPrompt) {
  Batch batch(With([](auto& o) { o.step_tokens = 8; }));
  batch.Add(1, 20, 5);
  batch.Add(2, 1, 5);
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 0, 8, false}));
}

TEST(BatchPlanner, DecodesFitEvenIfAllSequencesDecode) {
  Batch batch(With([](auto& o) { o.step_tokens = o.max_running = 4; }));
  for (SequenceId id = 1; id <= 4; ++id) batch.Add(id, 1, 9);
  batch.Step();
  EXPECT_EQ(batch.Step().tokens, 4);
}

TEST(BatchPlanner, StartsAtMostMaxRunningSequences) {
  for (const int32_t sequences : {2, 3, 4}) {
    SCOPED_TRACE(sequences);
    Batch batch(With([](auto& o) { o.max_running = 3; }));
    for (int32_t id = 1; id <= sequences; ++id) batch.Add(static_cast<SequenceId>(id), 2, 9);
    batch.Step();
    EXPECT_EQ(batch.planner.stats().running, std::min(sequences, 3));
    EXPECT_EQ(batch.planner.stats().waiting, std::max(sequences - 3, 0));
  }
}

TEST(BatchPlanner, StartsASequenceOnlyIfItsTokensAndTheNextFitInFreeBlocks) {
  // Sequence 1 takes 4 of 8 blocks; 4 blocks hold 16 positions, so a prompt of 15 and its next.
  for (const int32_t prompt : {14, 15, 16}) {
    SCOPED_TRACE(prompt);
    Batch batch(With([](auto& o) { o.kv_blocks = 8; }));
    batch.Add(1, 13, 2);
    batch.Add(2, prompt, 2);
    batch.Step();
    EXPECT_EQ(batch.planner.stats().running, prompt <= 15 ? 2 : 1);
    EXPECT_EQ(batch.planner.stats().blocks_used, prompt <= 15 ? 8 : 4);
  }
}

TEST(BatchPlanner, AdmissionLeavesTheWatermarkFree) {
  // 20 blocks, 100 permille: 2 stay free.
  for (const int32_t blocks : {13, 14, 15}) {
    SCOPED_TRACE(blocks);
    Batch batch(With([](auto& o) {
      o.kv_blocks = 20;
      o.watermark_permille = 100;
    }));
    batch.Add(1, 15, 1);  // 4 blocks
    batch.Add(2, blocks * 4 - 1, 1);
    batch.Step();
    EXPECT_EQ(batch.planner.stats().waiting, blocks <= 14 ? 0 : 1);
  }
}

TEST(BatchPlanner, TheWatermarkDoesNotHoldBackTheOnlySequence) {
  Batch batch(With([](auto& o) {
    o.kv_blocks = 4;
    o.watermark_permille = 1000;
  }));
  batch.Add(1, 15, 1);
  batch.Add(2, 1, 1);
  EXPECT_EQ(batch.Step().sequences.size(), 1u);
  EXPECT_THAT(batch.ended, ElementsAre(1));
  batch.Step();
  EXPECT_THAT(batch.ended, ElementsAre(2));
}

TEST(BatchPlanner, NobodyOvertakesAWaitingSequenceThatDoesNotFit) {
  Batch batch(With([](auto& o) { o.kv_blocks = 8; }));
  batch.Add(1, 12, 9);
  batch.Add(2, 24, 2);  // does not fit beside 1
  batch.Add(3, 1, 1);   // would
  EXPECT_EQ(batch.Step().sequences.size(), 1u);
  EXPECT_EQ(batch.planner.stats().waiting, 2);
}

TEST(BatchPlanner, StartsNobodyInAStepWithoutTokensForIt) {
  Batch batch(With([](auto& o) { o.step_tokens = 8; }));
  batch.Add(1, 8, 5);
  batch.Add(2, 8, 5);
  batch.Step();
  EXPECT_EQ(batch.planner.stats().running, 1);
  EXPECT_THAT(batch.Step().sequences,
              ElementsAre(PlannedSequence{1, 8, 1, true}, PlannedSequence{2, 0, 7, false}));
}

TEST(BatchPlanner, RefusesWhatNeverFits) {
  for (const int32_t max_tokens : {9, 10, 11}) {
    SCOPED_TRACE(max_tokens);
    Batch batch(With([](auto& o) { o.kv_blocks = 5; }));  // 20 positions
    EXPECT_EQ(batch.Add(1, 10, max_tokens),
              max_tokens <= 10 ? Admission::kAdmitted : Admission::kNeverFits);
    EXPECT_EQ(batch.planner.stats().waiting, max_tokens <= 10 ? 1 : 0);
  }
}

TEST(BatchPlanner, RefusesLengthsWhoseSumExceeds32Bits) {
  Batch batch(kRoomy);
  EXPECT_EQ(batch.Add(1, 1, INT32_MAX), Admission::kNeverFits);
  EXPECT_EQ(batch.Add(1, INT32_MAX, INT32_MAX), Admission::kNeverFits);
}

TEST(BatchPlanner, WhatJustFitsRunsToItsEnd) {
  for (const int32_t max_tokens : {0, 1, 10}) {
    SCOPED_TRACE(max_tokens);
    Batch batch(With([](auto& o) { o.kv_blocks = 5; }));
    ASSERT_EQ(batch.Add(1, 20 - max_tokens, max_tokens), Admission::kAdmitted);
    for (int i = 0; i < 20 && batch.ended.empty(); ++i) batch.Step();
    EXPECT_THAT(batch.ended, ElementsAre(1));
    EXPECT_EQ(batch.planner.stats().preemptions, 0u);
  }
}

TEST(BatchPlanner, RefusesMoreThanMaxWaitingSequences) {
  Batch batch(With([](auto& o) { o.max_waiting = 3; }));
  EXPECT_EQ(batch.Add(1, 1, 1), Admission::kAdmitted);
  EXPECT_EQ(batch.Add(2, 1, 1), Admission::kAdmitted);
  EXPECT_EQ(batch.Add(3, 1, 1), Admission::kAdmitted);
  EXPECT_EQ(batch.Add(4, 1, 1), Admission::kQueueFull);
  batch.Step();
  EXPECT_EQ(batch.Add(4, 1, 1), Admission::kAdmitted);
}

TEST(BatchPlanner, RefusesMoreThanMaxWaitingTokens) {
  for (const int32_t prompt : {5, 6, 7}) {
    SCOPED_TRACE(prompt);
    Batch batch(With([](auto& o) { o.max_waiting_tokens = 10; }));
    ASSERT_EQ(batch.Add(1, 4, 1), Admission::kAdmitted);
    EXPECT_EQ(batch.Add(2, prompt, 1), prompt <= 6 ? Admission::kAdmitted : Admission::kQueueFull);
    EXPECT_EQ(batch.planner.stats().waiting_tokens, prompt <= 6 ? 4 + prompt : 4);
  }
}

TEST(BatchPlanner, APromptLongerThanTheQueueNeverFits) {
  for (const int32_t prompt : {9, 10, 11}) {
    SCOPED_TRACE(prompt);
    Batch batch(With([](auto& o) { o.max_waiting_tokens = 10; }));
    EXPECT_EQ(batch.Add(1, prompt, 1), prompt <= 10 ? Admission::kAdmitted : Admission::kNeverFits);
  }
}

TEST(BatchPlanner, CancelEndsAtTheNextPlanWhereverTheSequenceIs) {
  Batch batch(With([](auto& o) { o.max_running = 2; }));
  for (SequenceId id = 1; id <= 4; ++id) batch.Add(id, 4, 9);
  batch.Step();
  batch.planner.SetPaused(2, true);
  batch.planner.Cancel(2);  // runs, paused
  batch.planner.Cancel(1);  // runs
  batch.planner.Cancel(4);  // waits
  EXPECT_EQ(batch.planner.stats().running, 2);
  const StepPlan plan = batch.Step();
  EXPECT_THAT(plan.dropped, ElementsAre(DroppedSequence{2, DropReason::kCancelled},
                                        DroppedSequence{1, DropReason::kCancelled},
                                        DroppedSequence{4, DropReason::kCancelled}));
  EXPECT_THAT(plan.sequences, ElementsAre(PlannedSequence{3, 0, 4, true}));
}

TEST(BatchPlanner, BlocksOfADroppedSequenceServeTheNextInTheSamePlan) {
  Batch batch(With([](auto& o) { o.kv_blocks = 4; }));
  batch.Add(1, 15, 1);
  batch.planner.Plan(batch.now);  // in flight
  batch.Add(2, 15, 1);
  batch.planner.Drop(1);
  batch.planner.Commit({.sequences = {{1, 0, 15, true}}, .tokens = 15}, std::vector<uint8_t>{0});
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{2, 0, 15, true}));
}

TEST(BatchPlanner, CancelOfAPlannedSequenceLetsItsCommitPass) {
  Batch batch(kRoomy);
  batch.Add(1, 4, 9);
  const StepPlan plan = batch.planner.Plan(batch.now);
  batch.planner.Cancel(1);
  batch.Commit(plan);
  EXPECT_THAT(batch.ended, IsEmpty());
  EXPECT_THAT(batch.Step().dropped, ElementsAre(DroppedSequence{1, DropReason::kCancelled}));
}

TEST(BatchPlanner, CancelOfAnEndedSequenceDoesNotHitTheNextOneOfThatId) {
  Batch batch(kRoomy);
  batch.Add(1, 4, 1);
  const StepPlan plan = batch.planner.Plan(batch.now);
  batch.planner.Cancel(1);
  batch.Commit(plan);
  EXPECT_THAT(batch.ended, ElementsAre(1));
  EXPECT_TRUE(batch.planner.idle());
  batch.Add(1, 4, 1);
  const StepPlan next = batch.Step();
  EXPECT_THAT(next.dropped, IsEmpty());
  EXPECT_EQ(next.sequences.size(), 1u);
}

TEST(BatchPlanner, UnknownIdsAreIgnored) {
  Batch batch(kRoomy);
  batch.planner.Cancel(9);
  batch.planner.SetPaused(9, true);
  batch.planner.Drop(9);
  EXPECT_TRUE(batch.planner.idle());
}

TEST(BatchPlanner, ADeadlineDropsWhenItIsReached) {
  for (const int64_t at : {999, 1000, 1001}) {
    SCOPED_TRACE(at);
    Batch batch(kRoomy);
    batch.planner.Add({.id = 1, .prompt_tokens = 4, .max_tokens = 9, .deadline = Micros(1000)});
    EXPECT_EQ(batch.planner.NextDeadline(), Micros(1000));
    batch.Step();
    batch.now = Micros(at);
    const StepPlan plan = batch.Step();
    EXPECT_EQ(plan.sequences.size(), at < 1000 ? 1u : 0u);
    EXPECT_EQ(plan.dropped.size(), at < 1000 ? 0u : 1u);
    EXPECT_EQ(batch.planner.stats().blocks_used, at < 1000 ? 2 : 0);
  }
}

TEST(BatchPlanner, ALateSequenceIsNeverStarted) {
  Batch batch(kRoomy);
  batch.now = Micros(5);
  batch.planner.Add({.id = 1, .prompt_tokens = 4, .max_tokens = 9, .deadline = Micros(5)});
  const StepPlan plan = batch.Step();
  EXPECT_THAT(plan.dropped, ElementsAre(DroppedSequence{1, DropReason::kDeadline}));
  EXPECT_THAT(plan.sequences, IsEmpty());
}

TEST(BatchPlanner, NextDeadlineIsTheEarliestOfAll) {
  Batch batch(kRoomy);
  EXPECT_EQ(batch.planner.NextDeadline(), std::nullopt);
  batch.planner.Add({.id = 1, .prompt_tokens = 1, .max_tokens = 9, .deadline = Micros(70)});
  batch.planner.Add({.id = 2, .prompt_tokens = 1, .max_tokens = 9, .deadline = Micros(50)});
  EXPECT_EQ(batch.planner.NextDeadline(), Micros(50));
  batch.planner.Drop(2);
  EXPECT_EQ(batch.planner.NextDeadline(), Micros(70));
}

// Three sequences of 4 blocks each fill the pool; the next token of each needs a fifth block.
class FullPool : public testing::Test {
 protected:
  FullPool()
      : batch_(With([](auto& o) {
          o.kv_blocks = 12;
          o.step_tokens = 512;
        })) {
    for (SequenceId id = 1; id <= 3; ++id) batch_.Add(id, 15, 20);
    batch_.Step();  // samples position 15
    batch_.Step();  // samples position 16, which no block has room for
    EXPECT_EQ(batch_.planner.stats().blocks_used, 12);
  }

  Batch batch_;
};

TEST_F(FullPool, ADecodeWithoutABlockPreemptsTheYoungest) {
  const StepPlan plan = batch_.Step();
  EXPECT_THAT(plan.preempted, ElementsAre(3));
  EXPECT_THAT(plan.sequences,
              ElementsAre(PlannedSequence{1, 16, 1, true}, PlannedSequence{2, 16, 1, true}));
  EXPECT_EQ(batch_.planner.stats().preemptions, 1u);
  EXPECT_THAT(batch_.planner.Blocks(3), IsEmpty());
}

TEST_F(FullPool, APausedSequenceIsPreemptedBeforeAYoungerOne) {
  batch_.planner.SetPaused(1, true);
  const StepPlan plan = batch_.Step();
  EXPECT_THAT(plan.preempted, ElementsAre(1));
  EXPECT_THAT(plan.sequences,
              ElementsAre(PlannedSequence{2, 16, 1, true}, PlannedSequence{3, 16, 1, true}));
}

TEST_F(FullPool, ThePreemptedIsRecomputedFromZeroAndSamplesAtItsLastPositionOnly) {
  EXPECT_THAT(batch_.Step().preempted, ElementsAre(3));
  batch_.planner.Cancel(1);
  batch_.planner.Cancel(2);
  // 15 of the prompt and the 2 it had generated.
  EXPECT_THAT(batch_.Step().sequences, ElementsAre(PlannedSequence{3, 0, 17, true}));
  int32_t more = 1;
  while (batch_.ended.empty()) {
    batch_.Step();
    ++more;
  }
  EXPECT_EQ(more, 20 - 2);
}

TEST_F(FullPool, ThePreemptedComesBackBeforeThoseThatNeverRan) {
  batch_.Add(4, 1, 1);
  EXPECT_THAT(batch_.Step().preempted, ElementsAre(3));
  batch_.planner.Cancel(1);
  EXPECT_THAT(batch_.Step().sequences,
              ElementsAre(PlannedSequence{2, 17, 1, true}, PlannedSequence{3, 0, 17, true},
                          PlannedSequence{4, 0, 1, true}));
}

TEST_F(FullPool, AStepThatPreemptsStartsNobody) {
  batch_.Add(4, 1, 1);
  EXPECT_EQ(batch_.Step().sequences.size(), 2u);  // though sequence 3 left two blocks
}

TEST_F(FullPool, AllEndInOrderOfArrival) {
  std::vector<SequenceId> ended;
  for (int i = 0; i < 100 && ended.size() < 3; ++i) {
    batch_.Step();
    ended.insert(ended.end(), batch_.ended.begin(), batch_.ended.end());
  }
  EXPECT_THAT(ended, ElementsAre(1, 2, 3));
}

TEST(BatchPlanner, TheYoungestPreemptsItselfRatherThanAnOlderOne) {
  Batch batch(With([](auto& o) { o.kv_blocks = 4; }));
  batch.Add(1, 5, 8);  // 2 blocks, enough until position 8
  batch.Add(2, 7, 8);  // 2 blocks, full after the next
  batch.Step();
  batch.Step();
  const StepPlan plan = batch.Step();
  EXPECT_THAT(plan.preempted, ElementsAre(2));
  EXPECT_THAT(plan.sequences, ElementsAre(PlannedSequence{1, 6, 1, true}));
}

TEST(BatchPlanner, APausedSequenceIsNotSteppedAndKeepsItsBlocks) {
  Batch batch(kRoomy);
  batch.Add(1, 4, 9);
  batch.Step();
  batch.planner.SetPaused(1, true);
  EXPECT_TRUE(batch.planner.idle());
  EXPECT_THAT(batch.Step().sequences, IsEmpty());
  EXPECT_EQ(batch.planner.stats().blocks_used, 2);
  batch.planner.SetPaused(1, false);
  EXPECT_FALSE(batch.planner.idle());
  EXPECT_THAT(batch.Step().sequences, ElementsAre(PlannedSequence{1, 4, 1, true}));
}

TEST(BatchPlanner, APausedSequenceThatWaitsIsPassedAndKeepsItsPlace) {
  Batch batch(With([](auto& o) { o.max_running = 1; }));
  batch.Add(1, 4, 1);
  batch.Add(2, 4, 1);
  batch.Add(3, 4, 1);
  batch.planner.SetPaused(1, true);
  EXPECT_EQ(batch.Step().sequences[0].id, 2u);
  batch.planner.SetPaused(1, false);
  EXPECT_EQ(batch.Step().sequences[0].id, 1u);
  EXPECT_EQ(batch.Step().sequences[0].id, 3u);
}

TEST(BatchPlanner, APausedSequenceMakesRoomForAWaitingOne) {
  Batch batch(With([](auto& o) { o.max_running = 2; }));
  batch.Add(1, 4, 9);
  batch.Add(2, 4, 9);
  batch.Step();
  batch.Add(3, 4, 9);
  batch.planner.SetPaused(1, true);
  const StepPlan plan = batch.Step();
  EXPECT_THAT(plan.preempted, ElementsAre(1));
  EXPECT_THAT(plan.sequences,
              ElementsAre(PlannedSequence{2, 4, 1, true}, PlannedSequence{3, 0, 4, true}));
  // It waits for a place as anybody does, and gets the first one.
  batch.Add(4, 4, 9);
  batch.planner.SetPaused(1, false);
  batch.planner.Cancel(3);
  EXPECT_THAT(batch.Step().sequences,
              ElementsAre(PlannedSequence{2, 5, 1, true}, PlannedSequence{1, 0, 5, true}));
}

TEST(BatchPlanner, APausedSequenceIsNotPreemptedInVain) {
  Batch batch(With([](auto& o) { o.kv_blocks = 8; }));
  batch.Add(1, 15, 9);  // 4 blocks
  batch.Add(2, 7, 9);   // 2 blocks
  batch.Step();
  batch.planner.SetPaused(2, true);
  batch.Add(3, 20, 9);  // 6 blocks: more than 2 and the 2 that are free
  EXPECT_THAT(batch.Step().preempted, IsEmpty());
  EXPECT_EQ(batch.planner.stats().running, 2);
}

TEST(BatchPlanner, BlocksCoverEveryPlannedPositionAndAreNobodyElses) {
  Batch batch(kRoomy);
  batch.Add(1, 9, 9);
  batch.Add(2, 3, 9);
  for (int i = 0; i < 6; ++i) {
    const StepPlan plan = batch.planner.Plan(batch.now);
    std::set<BlockId> blocks;
    size_t held = 0;
    for (const PlannedSequence& planned : plan.sequences) {
      const auto table = batch.planner.Blocks(planned.id);
      EXPECT_GE(static_cast<int32_t>(table.size()) * 4, planned.first + planned.count);
      blocks.insert(table.begin(), table.end());
      held += table.size();
    }
    EXPECT_EQ(blocks.size(), held);
    EXPECT_EQ(batch.planner.stats().blocks_used, static_cast<int32_t>(held));
    batch.Commit(plan);
  }
}

TEST(BatchPlanner, ADroppedSequenceKeepsItsPlaceInTheEndsOfTheCommit) {
  Batch batch(kRoomy);
  for (SequenceId id = 1; id <= 3; ++id) batch.Add(id, 2, 9);
  const StepPlan plan = batch.planner.Plan(batch.now);
  batch.planner.Drop(2);
  batch.Add(2, 5, 9);  // another one of that id
  batch.Commit(plan, {2, 3});
  EXPECT_THAT(batch.ended, ElementsAre(3));
  EXPECT_THAT(batch.Step().sequences,
              ElementsAre(PlannedSequence{1, 2, 1, true}, PlannedSequence{2, 0, 5, true}));
}

TEST(BatchPlannerDeathTest, MisuseIsABrokenPromise) {
  Batch batch(kRoomy);
  batch.Add(1, 4, 9);
  EXPECT_DEATH(batch.Add(1, 4, 9), "Find");
  EXPECT_DEATH(batch.Add(2, 0, 9), "prompt_tokens >= 1");
  EXPECT_DEATH(batch.Add(2, 1, -1), "max_tokens >= 0");
  const StepPlan plan = batch.planner.Plan(batch.now);
  EXPECT_DEATH(batch.planner.Plan(batch.now), "in_flight");
  EXPECT_DEATH(batch.planner.Commit(plan, {}), "sampled < ends.size");
  EXPECT_DEATH(batch.planner.Commit(plan, std::vector<uint8_t>{0, 0}), "sampled == ends.size");
  batch.Commit(plan);
  EXPECT_DEATH(batch.planner.Commit(plan, std::vector<uint8_t>{0}), "in_flight");
  EXPECT_DEATH(BatchPlanner(With([](auto& o) { o.step_tokens = o.max_running - 1; })),
               "step_tokens >= options.max_running");
}

TEST(BatchPlanner, PlansAgainWhatAStepDidNotBring) {
  Batch batch(kRoomy);
  batch.Add(1, 3, 4);
  batch.Add(2, 9, 2);
  batch.Step();
  batch.Add(3, 5, 1);
  const StepPlan first = batch.planner.Plan(batch.now);
  batch.planner.Abandon(first);
  batch.planner.CheckInvariants();
  batch.planner.Cancel(2);
  const StepPlan again = batch.Step();
  EXPECT_THAT(again.dropped, ElementsAre(DroppedSequence{2, DropReason::kCancelled}));
  EXPECT_THAT(again.sequences, ElementsAre(first.sequences[0], first.sequences[2]));
}

}  // namespace
}  // namespace conclave::scheduler
