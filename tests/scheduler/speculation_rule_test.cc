#include "scheduler/speculation_rule.h"

#include <gtest/gtest.h>

namespace conclave::scheduler {
namespace {

constexpr SpeculationRule::Options kEight = {
    .tokens = 8, .first = 2, .misses = 3, .rest = 4, .rest_max = 16};

// Steps until it wants something again.
int32_t Rest(SpeculationRule& rule) {
  int32_t steps = 0;
  for (; rule.Wants() == 0 && steps < 1000; ++steps) rule.Took(0, 0);
  return steps;
}

TEST(SpeculationRule, WantsNothingUnlessAsked) {
  SpeculationRule rule(SpeculationRule::Options{});
  EXPECT_EQ(rule.Wants(), 0);
  rule.Took(0, 0);
  EXPECT_EQ(rule.Wants(), 0);
}

TEST(SpeculationRule, BeginsSmallButNeverAboveItsLimit) {
  EXPECT_EQ(SpeculationRule(kEight).Wants(), 2);
  EXPECT_EQ(SpeculationRule({.tokens = 1}).Wants(), 1);
}

TEST(SpeculationRule, DoublesWhileAllIsRightUpToItsLimit) {
  SpeculationRule rule({.tokens = 7});
  for (const int32_t wants : {2, 4, 7, 7}) {
    EXPECT_EQ(rule.Wants(), wants);
    rule.Took(wants, wants);
  }
}

TEST(SpeculationRule, LearnsLittleFromFewerThanItWanted) {
  SpeculationRule rule(kEight);
  rule.Took(2, 2);
  rule.Took(3, 3);
  EXPECT_EQ(rule.Wants(), 4);
}

TEST(SpeculationRule, KeepsItsLengthWhileHalfIsRightAndElseHalvesIt) {
  SpeculationRule rule(kEight);
  rule.Took(2, 2);
  rule.Took(4, 4);
  rule.Took(8, 4);
  EXPECT_EQ(rule.Wants(), 8);
  rule.Took(8, 3);
  EXPECT_EQ(rule.Wants(), 4);
  rule.Took(4, 0);
  rule.Took(2, 0);
  EXPECT_EQ(rule.Wants(), 1) << "at least one";
}

TEST(SpeculationRule, RestsAfterSoManyMissesInARow) {
  SpeculationRule rule(kEight);
  for (int i = 0; i < 2; ++i) rule.Took(1, 0);
  rule.Took(1, 1);  // not in a row
  for (int i = 0; i < 2; ++i) rule.Took(1, 0);
  EXPECT_GT(rule.Wants(), 0);
  rule.Took(1, 0);
  EXPECT_EQ(rule.Wants(), 0);
  EXPECT_EQ(Rest(rule), 4);
  EXPECT_EQ(rule.Wants(), 1);
}

TEST(SpeculationRule, AStepWithoutAGuessIsNoMiss) {
  SpeculationRule rule(kEight);
  for (int i = 0; i < 100; ++i) rule.Took(0, 0);
  EXPECT_EQ(rule.Wants(), 2);
}

TEST(SpeculationRule, RestsLongerEachTimeInVainUpToALimit) {
  SpeculationRule rule(kEight);
  for (int i = 0; i < 3; ++i) rule.Took(1, 0);
  for (const int32_t rest : {4, 8, 16, 16}) {
    EXPECT_EQ(Rest(rule), rest);
    rule.Took(1, 0);
  }
  Rest(rule);
  rule.Took(1, 1);
  for (int i = 0; i < 3; ++i) rule.Took(1, 0);
  EXPECT_EQ(Rest(rule), 4) << "it was right in between";
}

TEST(SpeculationRuleDeathTest, LimitsAreChecked) {
  EXPECT_DEATH(SpeculationRule({.tokens = 17}), "kMaxTokens");
  EXPECT_DEATH(SpeculationRule({.tokens = -1}), "tokens >= 0");
  SpeculationRule rule(kEight);
  EXPECT_DEATH(rule.Took(1, 2), "accepted <= proposed");
}

}  // namespace
}  // namespace conclave::scheduler
