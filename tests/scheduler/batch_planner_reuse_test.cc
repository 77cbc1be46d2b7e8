// Reuse of blocks: who starts where, what is copied, what goes first when room is needed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "scheduler/batch_planner.h"

namespace conclave::scheduler {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr BatchPlanner::Options kRoomy = {.step_tokens = 64,
                                          .prefill_chunk = 64,
                                          .max_running = 8,
                                          .max_waiting = 8,
                                          .kv_blocks = 16,
                                          .block_size = 4,
                                          .watermark_permille = 0};

// The keys of the full blocks of a text: equal for equal beginnings.
std::vector<BlockKey> KeysOf(const std::string& text) {
  std::vector<BlockKey> keys;
  for (size_t end = 4; end <= text.size(); end += 4) {
    keys.push_back({{std::hash<std::string>()(text.substr(0, end)), end, 0, 0}});
  }
  return keys;
}

struct Start {
  SequenceId id;
  int32_t first;
  int32_t count;
  friend bool operator==(const Start&, const Start&) = default;
};

// A planner whose sequences are texts, a token a letter.
class Batch {
 public:
  explicit Batch(const BatchPlanner::Options& options = kRoomy) : planner(options) {}

  void Add(SequenceId id, const std::string& prompt, int32_t max_tokens = 1, bool reuse = true) {
    ASSERT_EQ(planner.Add({.id = id,
                           .prompt_tokens = static_cast<int32_t>(prompt.size()),
                           .max_tokens = max_tokens,
                           .keys = KeysOf(prompt),
                           .reuse = reuse}),
              BatchPlanner::Admission::kAdmitted);
  }

  StepPlan Plan() {
    StepPlan plan = planner.Plan(Micros(0));
    planner.CheckInvariants();
    return plan;
  }
  void Commit(const StepPlan& plan) {
    std::vector<uint8_t> ends;
    for (const PlannedSequence& planned : plan.sequences) {
      if (planned.samples) ends.push_back(0);
    }
    planner.Commit(plan, ends);
    planner.CheckInvariants();
  }
  // Plans and commits; what was planned.
  std::vector<Start> Step() {
    const StepPlan plan = Plan();
    copies = plan.copies;
    std::vector<Start> starts;
    for (const PlannedSequence& p : plan.sequences) starts.push_back({p.id, p.first, p.count});
    if (!starts.empty()) Commit(plan);
    return starts;
  }

  BatchPlanner planner;
  std::vector<BlockCopy> copies;  // of the last step
};

TEST(BatchPlannerReuse, StartsBehindTheLongestRunOfCachedBlocks) {
  Batch batch;
  batch.Add(1, "aaaabbbbcccc.");
  batch.Step();
  EXPECT_EQ(batch.planner.stats().blocks_used, 0);
  EXPECT_EQ(batch.planner.stats().blocks_cached, 3);
  batch.Add(2, "aaaabbbbxxxx.");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{2, 8, 5}));
  batch.Add(3, "aaaaxxxxcccc.");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{3, 4, 9}));
  batch.Add(4, "baaabbbbcccc.");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{4, 0, 13}));
}

TEST(BatchPlannerReuse, OnlyFullBlocksOfComputedPositionsAreFound) {
  Batch batch;
  batch.Add(1, "aaaabbb");
  batch.Step();
  EXPECT_EQ(batch.planner.stats().blocks_cached, 1);
  batch.Add(2, "aaaabbb");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{2, 4, 3}));
}

TEST(BatchPlannerReuse, TheLastPositionIsComputedInACopy) {
  Batch batch;
  batch.Add(1, "aaaabbbb", 2);
  batch.Step();
  const BlockId source = batch.planner.Blocks(1)[1];
  batch.Add(2, "aaaabbbb", 2);
  const StepPlan plan = batch.Plan();
  ASSERT_THAT(plan.copies, SizeIs(1));
  EXPECT_EQ(plan.copies[0].from, source);
  EXPECT_EQ(plan.copies[0].to, batch.planner.Blocks(2)[1]);
  EXPECT_NE(plan.copies[0].to, source);
  EXPECT_EQ(plan.sequences.back().first, 7);
  EXPECT_EQ(plan.sequences.back().count, 1);
}

TEST(BatchPlannerReuse, ACopyThatBecameEqualToItsSourceIsGivenBack) {
  Batch batch;
  batch.Add(1, "aaaabbbb", 9);
  batch.Step();
  batch.Add(2, "aaaabbbb", 9);
  batch.Step();
  EXPECT_THAT(batch.copies, SizeIs(1));
  EXPECT_EQ(batch.planner.Blocks(2)[0], batch.planner.Blocks(1)[0]);
  EXPECT_EQ(batch.planner.Blocks(2)[1], batch.planner.Blocks(1)[1]);
  EXPECT_NE(batch.planner.Blocks(2)[2], batch.planner.Blocks(1)[2]) << "each writes its own";
  EXPECT_EQ(batch.planner.stats().blocks_used, 4);
}

TEST(BatchPlannerReuse, OneComputesWhatSeveralBeginWithAndTheOthersFollow) {
  Batch batch;
  for (SequenceId id = 1; id <= 3; ++id) batch.Add(id, "aaaabbbbcc", 9);
  batch.Add(4, "dddd.", 9);
  EXPECT_THAT(batch.Step(), ElementsAre(Start{1, 0, 10}, Start{4, 0, 5}));
  EXPECT_THAT(batch.Step(),
              ElementsAre(Start{1, 10, 1}, Start{4, 5, 1}, Start{2, 8, 2}, Start{3, 8, 2}));
  EXPECT_EQ(batch.planner.stats().blocks_used, 2 + 3 + 2);
}

TEST(BatchPlannerReuse, FollowsChunkByChunk) {
  BatchPlanner::Options options = kRoomy;
  options.prefill_chunk = 6;
  Batch batch(options);
  batch.Add(1, "aaaabbbbcccc.", 9);
  batch.Add(2, "aaaabbbbcccc.", 9);
  EXPECT_THAT(batch.Step(), ElementsAre(Start{1, 0, 6}));
  EXPECT_THAT(batch.Step(), ElementsAre(Start{1, 6, 6}));
  EXPECT_THAT(batch.Step(), ElementsAre(Start{1, 12, 1}, Start{2, 12, 1}));
}

TEST(BatchPlannerReuse, DoesNotFollowAPausedOne) {
  BatchPlanner::Options options = kRoomy;
  options.prefill_chunk = 6;
  Batch batch(options);
  batch.Add(1, "aaaabbbbcccc.", 9);
  batch.Step();
  batch.planner.SetPaused(1, true);
  batch.Add(2, "aaaabbbbcccc.", 9);
  EXPECT_THAT(batch.Step(), ElementsAre(Start{2, 4, 6}));
}

TEST(BatchPlannerReuse, WithoutReuseAllIsComputedAndFoundByOthers) {
  Batch batch;
  batch.Add(1, "aaaabbbb.", 0, /*reuse=*/false);
  batch.Step();
  batch.Add(2, "aaaabbbb.", 0, /*reuse=*/false);
  EXPECT_THAT(batch.Step(), ElementsAre(Start{2, 0, 9}));
  batch.Add(3, "aaaabbbb.");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{3, 8, 1}));
}

TEST(BatchPlannerReuse, GeneratedTokensAreFoundToo) {
  Batch batch;
  batch.Add(1, "aaa", 6);
  batch.planner.Plan(Micros(0));
  batch.planner.AddKey(1, KeysOf("aaab")[0]);
  batch.planner.Commit({.sequences = {{1, 0, 3, true}}, .tokens = 3}, std::vector<uint8_t>{0});
  batch.Step();  // computes b
  batch.Add(2, "aaabz");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{1, 4, 1}, Start{2, 4, 1}));
}

TEST(BatchPlannerReuse, CachedBlocksGoOldestFirstAndLeavesBeforeRoots) {
  BatchPlanner::Options options = kRoomy;
  options.kv_blocks = 6;
  Batch batch(options);
  batch.Add(1, "aaaabbbb.");  // 3 blocks, 2 of them full
  batch.Step();
  batch.Add(2, "ccccdddd.");
  batch.Step();
  EXPECT_EQ(batch.planner.stats().blocks_cached, 4);
  batch.Add(3, "eeeeffff.");  // 2 free, 1 evicted: bbbb
  batch.Step();
  EXPECT_EQ(batch.planner.stats().evictions, 1u);
  batch.Add(4, "aaaabbbb.");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{4, 4, 5})) << "its root was kept";
}

TEST(BatchPlannerReuse, UsingABlockMakesItYoung) {
  BatchPlanner::Options options = kRoomy;
  options.kv_blocks = 6;
  Batch batch(options);
  batch.Add(1, "aaaa.");
  batch.Step();
  batch.Add(2, "bbbb.");
  batch.Step();
  batch.Add(3, "aaaa!");
  batch.Step();
  batch.Add(4, "ccccddddeeeeffff...");  // 5 blocks: 4 free, then the oldest
  batch.Step();
  batch.Add(5, "aaaa.");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{5, 4, 1}));
}

TEST(BatchPlannerReuse, WhatIsHeldAlreadyNeedsNoRoom) {
  BatchPlanner::Options options = kRoomy;
  options.kv_blocks = 5;
  Batch batch(options);
  batch.Add(1, "aaaabbbbcccc.", 3);  // 4 blocks
  batch.Step();
  batch.Add(2, "aaaabbbbcccc!", 3);  // 4 blocks, 3 of them the same
  EXPECT_THAT(batch.Step(), ElementsAre(Start{1, 13, 1}, Start{2, 12, 1}));
  EXPECT_EQ(batch.planner.stats().blocks_used, 5);
}

TEST(BatchPlannerReuse, CachedBlocksCountAsFreeButThoseItTakesDoNot) {
  BatchPlanner::Options options = kRoomy;
  options.kv_blocks = 5;
  Batch batch(options);
  batch.Add(1, "xxxxyyyy", 4);  // 3 blocks
  batch.Step();
  batch.Add(2, "aaaa.", 1);
  batch.Step();
  EXPECT_EQ(batch.planner.stats().blocks_cached, 1);
  batch.Add(3, "aaaabbbb.", 1);  // 3 blocks; aaaa is cached, 1 is free
  EXPECT_THAT(batch.Step(), ElementsAre(Start{1, 9, 1})) << "does not fit yet";
}

TEST(BatchPlannerReuse, ThePreemptedFindsWhatItHad) {
  BatchPlanner::Options options = kRoomy;
  options.kv_blocks = 5;
  Batch batch(options);
  batch.Add(1, "aaaabbb", 10);
  batch.Add(2, "xxxxyyy", 10);
  batch.Step();
  StepPlan plan;
  while (plan.preempted.empty()) {
    plan = batch.Plan();
    batch.Commit(plan);
  }
  EXPECT_THAT(plan.preempted, ElementsAre(2));
  std::vector<Start> starts;
  do {
    starts = batch.Step();
  } while (starts.empty() || starts.back().id != 2);
  EXPECT_EQ(starts.back().first, 4) << "not from the beginning";
}

TEST(BatchPlannerReuse, WhatIsForgottenIsFoundByNobody) {
  Batch batch;
  batch.Add(1, "aaaabbbb.", 9);
  batch.Step();
  batch.Add(2, "aaaabbbbcccc.", 1);
  batch.Step();  // ended; its cccc is cached behind what 1 holds
  batch.planner.DropAndForget(1);
  batch.planner.CheckInvariants();
  EXPECT_EQ(batch.planner.stats().blocks_cached, 0);
  batch.Add(3, "aaaabbbbcccc.");
  EXPECT_THAT(batch.Step(), ElementsAre(Start{3, 0, 13}));
}

TEST(BatchPlannerReuse, WhoHoldsWhatIsForgottenGoesOnButLeavesNothing) {
  Batch batch;
  batch.Add(1, "aaaabbbb.", 9);
  batch.Step();
  batch.Add(2, "aaaabbbbcccc.", 2);
  batch.Step();
  batch.planner.DropAndForget(1);
  EXPECT_THAT(batch.Step(), ElementsAre(Start{2, 13, 1}));
  EXPECT_EQ(batch.planner.stats().blocks_used, 0);
  EXPECT_EQ(batch.planner.stats().blocks_cached, 0);
}

TEST(BatchPlannerReuse, SequencesWithoutKeysShareNothing) {
  Batch batch;
  for (SequenceId id = 1; id <= 2; ++id) {
    batch.planner.Add({.id = id, .prompt_tokens = 8, .max_tokens = 1});
    EXPECT_THAT(batch.Step(), ElementsAre(Start{id, 0, 8}));
  }
  EXPECT_EQ(batch.planner.stats().blocks_cached, 0);
}

TEST(BatchPlannerReuseDeathTest, KeysComeInOrderAndOnlyForFullBlocks) {
  Batch batch;
  EXPECT_DEATH(batch.planner.Add({.id = 1, .prompt_tokens = 3, .keys = KeysOf("aaaa")}), "keys");
  batch.Add(1, "aaaa", 9);
  EXPECT_DEATH(batch.planner.AddKey(1, KeysOf("bbbb")[0]), "keys");
}

}  // namespace
}  // namespace conclave::scheduler
