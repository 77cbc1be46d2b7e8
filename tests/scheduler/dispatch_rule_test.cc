#include "scheduler/dispatch_rule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::scheduler {
namespace {

using testing::ElementsAre;

Placement Of(size_t workers, std::vector<std::vector<int32_t>> owners) {
  Placement placement{.owners = std::move(owners)};
  for (size_t i = 0; i < workers; ++i) placement.workers.push_back("w" + std::to_string(i));
  return placement;
}

std::vector<int32_t> Choose(DispatchRule& rule, const Placement& placement,
                            std::vector<ExpertId> experts) {
  std::vector<int32_t> workers(experts.size(), -2);
  rule.Choose(placement, experts, workers);
  return workers;
}

TEST(DispatchRule, ComputesAtHomeWhatTheHomeOwns) {
  const Placement everywhere = Of(2, {{0, 1}, {0, 1}});
  DispatchRule rule({}, 2, 1);
  for (int i = 0; i < 100; ++i) {
    EXPECT_THAT(Choose(rule, everywhere, {0, 1}), ElementsAre(1, 1));
  }
}

TEST(DispatchRule, PrefersAWorkerTheTokenReachesAnyway) {
  const Placement placement = Of(4, {{1, 2}, {2}, {3}});
  DispatchRule rule({.slack = 3.0}, 4, 0);
  // Expert 1 takes the token to worker 2, so expert 0, earlier in gate order, goes there too.
  EXPECT_THAT(Choose(rule, placement, {0, 1}), ElementsAre(2, 2));
}

TEST(DispatchRule, AvoidsAReachedWorkerThatIsAboveTheMean) {
  const Placement placement = Of(3, {{1, 2}, {1}, {2}});
  DispatchRule rule({.slack = 0.5}, 3, 0);
  // Worker 1 has 1 row, the mean is 1/3.
  EXPECT_THAT(Choose(rule, placement, {0, 1}), ElementsAre(2, 1));
  // After it both have 1; with a row more on worker 2, its 2 are the mean (1) times 2.
  EXPECT_THAT(Choose(rule, placement, {2, 0}), ElementsAre(2, 1));
}

TEST(DispatchRule, StaysWithAReachedWorkerUpToTheSlackExactly) {
  const Placement placement = Of(2, {{1}, {0, 1}, {0}});
  DispatchRule at_edge({.slack = 1.0}, 2, -1);
  // Worker 1 has 1 row, twice the mean of a half.
  EXPECT_THAT(Choose(at_edge, placement, {0, 1}), ElementsAre(1, 1));
  DispatchRule below_edge({.slack = 0.99}, 2, -1);
  EXPECT_THAT(Choose(below_edge, placement, {0, 1}), ElementsAre(1, 0));
}

TEST(DispatchRule, SpreadsWhatReachesNobody) {
  const Placement placement = Of(3, {{1, 2}});
  DispatchRule rule({}, 3, 0);
  EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(1));
  EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(2));
  EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(1));
}

TEST(DispatchRule, TakesTheNearerOfEquallyBusyOnes) {
  const Placement placement = Of(3, {{1, 2}});
  DispatchRule rule({}, 3, 0);
  rule.SetDistance(1, 1);
  EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(2));
  EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(1)) << "the less busy one, near or not";
}

TEST(DispatchRule, GivesNothingToTheDead) {
  const Placement placement = Of(3, {{1, 2}, {1}});
  DispatchRule rule({}, 3, 0);
  rule.SetAlive(1, false);
  EXPECT_THAT(Choose(rule, placement, {0, 1, 0}), ElementsAre(2, DispatchRule::kNobody, 2));
  EXPECT_EQ(rule.load(1), 0u);
  rule.SetAlive(1, true);
  EXPECT_THAT(Choose(rule, placement, {1}), ElementsAre(1));
}

TEST(DispatchRule, GivesTheLateOnlyWhatNobodyElseCanCompute) {
  const Placement placement = Of(4, {{1, 2}, {1}, {1, 3}});
  DispatchRule rule({}, 4, 0);
  rule.SetLate(1, true);
  EXPECT_THAT(Choose(rule, placement, {0, 1, 2}), ElementsAre(2, 1, 3))
      << "not even where the token goes anyway";
  rule.SetLate(2, true);
  EXPECT_THAT(Choose(rule, placement, {0, 2}), ElementsAre(1, 3)) << "all late are equal";
  rule.SetAlive(2, false);
  EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(1));
}

TEST(DispatchRule, ComputesAtHomeThoughEverybodyElseIsPrompt) {
  const Placement everywhere = Of(2, {{0, 1}});
  DispatchRule rule({}, 2, 0);
  rule.SetLate(1, true);
  EXPECT_THAT(Choose(rule, everywhere, {0}), ElementsAre(0));
}

TEST(DispatchRule, LetsNobodyMakeUpForTheTimeItWasAway) {
  const Placement placement = Of(3, {{1, 2}});
  for (const bool dead : {false, true}) {
    DispatchRule rule({}, 3, 0);
    const auto set_away = [&](bool away) {
      dead ? rule.SetAlive(1, !away) : rule.SetLate(1, away);
    };
    set_away(true);
    for (int i = 0; i < 100; ++i) EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(2));
    set_away(false);
    EXPECT_EQ(rule.load(1), 100u);
    EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(1));
    EXPECT_THAT(Choose(rule, placement, {0}), ElementsAre(2));
  }
}

TEST(DispatchRule, ChoosesOneForAWholeAndALateOneOnlyIfItMay) {
  DispatchRule rule({}, 3, 0);
  const std::vector<int32_t> owners = {1, 2};
  EXPECT_EQ(rule.ChooseOne(owners, /*late=*/false), 1);
  EXPECT_EQ(rule.ChooseOne(owners, /*late=*/false), 2) << "the less busy one";
  rule.SetLate(1, true);
  rule.SetAlive(2, false);
  EXPECT_EQ(rule.ChooseOne(owners, /*late=*/false), DispatchRule::kNobody);
  EXPECT_FALSE(rule.CanChoose(owners, /*late=*/false));
  EXPECT_TRUE(rule.CanChoose(owners, /*late=*/true));
  EXPECT_EQ(rule.ChooseOne(owners, /*late=*/true), 1);
  EXPECT_EQ(rule.load(1), 2u) << "what was given to nobody is not counted";
}

TEST(DispatchRule, ForgetsLoadsOfLongAgo) {
  const Placement placement = Of(2, {{1}});
  DispatchRule rule({.window_rows = 4}, 2, 0);
  for (int i = 0; i < 3; ++i) Choose(rule, placement, {0});
  EXPECT_EQ(rule.load(1), 3u);
  Choose(rule, placement, {0});
  EXPECT_EQ(rule.load(1), 2u);
}

TEST(DispatchRule, ChoosesTheSameFromTheSameHistory) {
  const Placement placement = Of(3, {{0, 1, 2}, {1, 2}, {0, 2}, {1}});
  DispatchRule one({}, 3, -1), other({}, 3, -1);
  for (ExpertId i = 0; i < 200; ++i) {
    const std::vector<ExpertId> experts = {i % 4, (i * 7 + 1) % 4};
    EXPECT_EQ(Choose(one, placement, experts), Choose(other, placement, experts));
  }
}

}  // namespace
}  // namespace conclave::scheduler
