// Which experts of a token are summed together.

#include "scheduler/sum_rule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace conclave::scheduler {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Group(SumRule& rule, const Placement& placement,
                           const std::vector<ExpertId>& experts) {
  std::vector<int32_t> sums(experts.size());
  rule.Group(placement, experts, sums);
  return sums;
}

std::vector<int32_t> Group(std::vector<std::vector<int32_t>> owners,
                           const std::vector<ExpertId>& experts) {
  SumRule rule(3);
  return Group(rule, {.workers = {"a", "b", "c"}, .owners = std::move(owners)}, experts);
}

TEST(SumRule, PutsTogetherWhatOneWorkerOwns) {
  EXPECT_THAT(Group({{0}, {2}, {0}, {1}}, {3, 0, 1, 2}), ElementsAre(1, 0, 2, 0));
}

TEST(SumRule, GivesReplicasToWhoOwnsMost) {
  EXPECT_THAT(Group({{0}, {0, 1}, {1}, {1, 2}}, {0, 1, 2, 3}), ElementsAre(0, 1, 1, 1));
}

TEST(SumRule, GivesToTheFirstOfThoseThatOwnAsMuch) {
  EXPECT_THAT(Group({{1, 2}, {1, 2}}, {1, 0}), ElementsAre(1, 1));
  EXPECT_THAT(Group({{0, 1}, {1, 2}, {0, 2}}, {0, 1, 2}), ElementsAre(0, 1, 0));
}

TEST(SumRule, MakesOneSumWhereEverybodyOwnsAll) {
  EXPECT_THAT(Group({{0, 1, 2}, {0, 1, 2}}, {1, 0}), ElementsAre(0, 0));
}

TEST(SumRule, PutsAdaptersExpertsTogetherWithTheBases) {
  const Placement placement = {
      .workers = {"a", "b", "c"},
      .owners = {{0}, {1}},
      .adapters = {{.digest = "d", .first = 4, .replaced = {0}, .owners = {{1}}}}};
  SumRule rule(3);
  EXPECT_THAT(Group(rule, placement, {0, 4, 1}), ElementsAre(0, 1, 1));
}

TEST(SumRule, LeavesOutWhatNobodyOwns) {
  EXPECT_THAT(Group({{0}, {1}}, {0, 2, 1}), ElementsAre(0, SumRule::kNobody, 1));
}

TEST(SumRule, RemembersNothingOfOtherTokens) {
  const Placement placement = {.workers = {"a", "b", "c"}, .owners = {{0, 1}, {1, 2}, {2}}};
  SumRule rule(3);
  const std::vector<int32_t> first = Group(rule, placement, {0, 1});
  for (int i = 0; i < 10; ++i) Group(rule, placement, {2, 1});
  EXPECT_EQ(Group(rule, placement, {0, 1}), first);
}

}  // namespace
}  // namespace conclave::scheduler
