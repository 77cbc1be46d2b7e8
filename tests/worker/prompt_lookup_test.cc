#include "worker/prompt_lookup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::worker {
namespace {

using scheduler::TokenId;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<TokenId> After(std::vector<TokenId> tokens, int32_t count, LookupOptions options = {}) {
  return LookUp(tokens, count, options);
}

TEST(PromptLookup, GoesOnAsItWentOnTheLastTime) {
  EXPECT_THAT(After({1, 2, 3, 7, 8, 9, 1, 2, 3}, 2), ElementsAre(7, 8));
}

TEST(PromptLookup, TakesTheLatestOccurrence) {
  EXPECT_THAT(After({1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3}, 1), ElementsAre(8));
}

TEST(PromptLookup, FindsNothingThatWasNotThereBefore) {
  EXPECT_THAT(After({1, 2, 3, 7, 1, 2, 4}, 3), IsEmpty());
  EXPECT_THAT(After({1, 2, 3}, 3), IsEmpty()) << "itself is no earlier occurrence";
  EXPECT_THAT(After({1, 2}, 3), IsEmpty()) << "fewer than an n-gram";
  EXPECT_THAT(After({}, 3), IsEmpty());
}

TEST(PromptLookup, RepeatsItselfWhereTheTokensEnd) {
  EXPECT_THAT(After({5, 1, 2, 3, 1, 2, 3}, 7), ElementsAre(1, 2, 3, 1, 2, 3, 1));
  EXPECT_THAT(After({4, 4, 4, 4}, 3), ElementsAre(4, 4, 4)) << "an occurrence may overlap";
}

TEST(PromptLookup, GuessesNoMoreThanItIsAskedFor) {
  EXPECT_THAT(After({1, 2, 3, 7, 8, 1, 2, 3}, 0), IsEmpty());
  EXPECT_EQ(After({1, 2, 3, 7, 8, 1, 2, 3}, 16).size(), 16u);
}

TEST(PromptLookup, TheLengthOfTheRunIsAnOption) {
  const std::vector<TokenId> tokens = {9, 2, 5, 1, 2, 6, 1, 2};
  EXPECT_THAT(After(tokens, 1, {.ngram = 2}), ElementsAre(6));
  EXPECT_THAT(After(tokens, 1, {.ngram = 3}), IsEmpty());
  EXPECT_THAT(After({1, 2, 3, 1}, 1, {.ngram = 1}), ElementsAre(2));
}

TEST(PromptLookup, LooksBackThroughItsWindowOnly) {
  const std::vector<TokenId> tokens = {1, 2, 3, 7, 8, 9, 1, 2, 3};
  for (const int32_t window : {0, 3, 8}) {
    EXPECT_THAT(After(tokens, 1, {.window = window}), IsEmpty()) << window;
  }
  EXPECT_THAT(After(tokens, 1, {.window = 9}), ElementsAre(7));
}

}  // namespace
}  // namespace conclave::worker
