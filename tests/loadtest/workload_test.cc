#include "loadtest/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace conclave::loadtest {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::SizeIs;

std::vector<uint32_t> First(const std::vector<uint32_t>& ids, size_t count) {
  return {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count)};
}

TEST(Workload, PromptsComeInTurnAsTheyAre) {
  const Workload workload({{.line = 1, .text = "a"}, {.line = 2, .text = "b", .max_tokens = 3}});
  EXPECT_EQ(workload.At(0, {}).prompt.text, "a");
  EXPECT_EQ(workload.At(3, {}).prompt.line, 2U);
  EXPECT_EQ(workload.At(0, {}).prompt.max_tokens, std::nullopt);
  EXPECT_EQ(workload.At(0, {}).prompt.ignore_eos, std::nullopt);
}

TEST(Workload, OutputLengthsAndAdaptersAreForPromptsThatSayNothing) {
  const Workload workload(
      {.prompts = {{.text = "a"}, {.text = "b", .max_tokens = 3, .adapter = "x"}},
       .output_lengths = *Lengths::Parse("9"),
       .adapters = *AdapterMix::Parse("uniform:m")});
  EXPECT_EQ(workload.At(0, {}).prompt.max_tokens, 9U);
  EXPECT_EQ(workload.At(0, {}).prompt.ignore_eos, true);
  EXPECT_EQ(workload.At(0, {}).prompt.adapter, "m");
  EXPECT_EQ(workload.At(1, {}).prompt.max_tokens, 3U);
  EXPECT_EQ(workload.At(1, {}).prompt.ignore_eos, std::nullopt);
  EXPECT_EQ(workload.At(1, {}).prompt.adapter, "x");
}

TEST(Workload, SyntheticPromptsHaveTheirLengthAndStayInTheVocabulary) {
  const Workload::Options options = {
      .prompt_lengths = *Lengths::Parse("uniform:1:300"), .seed = 5, .vocabulary = 7};
  const Workload workload(options);
  std::set<uint32_t> seen;
  for (uint64_t i = 0; i < 50; ++i) {
    const Ask ask = workload.At(i, {});
    EXPECT_GE(ask.prompt.token_ids.size(), 1U);
    EXPECT_LE(ask.prompt.token_ids.size(), 300U);
    seen.insert(ask.prompt.token_ids.begin(), ask.prompt.token_ids.end());
    EXPECT_EQ(ask.prompt.token_ids, Workload(options).At(i, {}).prompt.token_ids);
  }
  EXPECT_THAT(seen, ElementsAre(0, 1, 2, 3, 4, 5, 6));
  Workload::Options other = options;
  other.seed = 6;
  EXPECT_NE(Workload(other).At(1, {}).prompt.token_ids, workload.At(1, {}).prompt.token_ids);
  EXPECT_NE(workload.At(2, {}).prompt.token_ids, workload.At(1, {}).prompt.token_ids);
}

TEST(Workload, EqualBlocksOfATraceAreEqualTokens) {
  const Workload workload(
      {.trace = {{.prompt_tokens = 1000, .output_tokens = 4, .blocks = {8, 9}},
                 {.prompt_tokens = 1500, .output_tokens = 5, .blocks = {8, 9, 3}},
                 {.prompt_tokens = 1024, .output_tokens = 6, .blocks = {9, 8}},
                 {.prompt_tokens = 700, .output_tokens = 6, .blocks = {8}},
                 {.prompt_tokens = 700, .output_tokens = 6, .blocks = {8}}},
       .seed = 1,
       .vocabulary = 30'000});
  const auto ids = [&](uint64_t index) { return workload.At(index, {}).prompt.token_ids; };
  ASSERT_THAT(ids(0), SizeIs(1000));
  ASSERT_THAT(ids(1), SizeIs(1500));
  EXPECT_EQ(First(ids(1), 1000), ids(0));
  // The same blocks elsewhere in the prompt.
  const std::vector<uint32_t> second = ids(1);
  EXPECT_EQ(First(ids(2), 512), std::vector<uint32_t>(second.begin() + 512, second.begin() + 1024));
  // Behind the named blocks requests are their own.
  EXPECT_EQ(First(ids(3), 512), First(ids(4), 512));
  EXPECT_NE(ids(3), ids(4));
  EXPECT_EQ(workload.At(1, {}).prompt.max_tokens, 5U);
  EXPECT_EQ(workload.At(1, {}).prompt.ignore_eos, true);
}

TEST(Workload, LengthsAboveALimitAreCutAndSaidSo) {
  const Workload workload({.trace = {{.prompt_tokens = 600, .output_tokens = 10, .blocks = {1, 2}},
                                     {.prompt_tokens = 100, .output_tokens = 11},
                                     {.prompt_tokens = 512, .output_tokens = 10, .blocks = {1}}},
                           .vocabulary = 100,
                           .prompt_tokens_limit = 512,
                           .output_tokens_limit = 10});
  EXPECT_TRUE(workload.At(0, {}).cut);
  EXPECT_THAT(workload.At(0, {}).prompt.token_ids, SizeIs(512));
  EXPECT_TRUE(workload.At(1, {}).cut);
  EXPECT_EQ(workload.At(1, {}).prompt.max_tokens, 10U);
  EXPECT_FALSE(workload.At(2, {}).cut);
}

TEST(Workload, APhaseHasALoadOfItsOwn) {
  const Workload workload({.prompt_lengths = *Lengths::Parse("5"),
                           .adapters = *AdapterMix::Parse("uniform:calm"),
                           .phases = {{.name = "one", .seconds = 2},
                                      {.name = "two",
                                       .seconds = 3,
                                       .adapters = *AdapterMix::Parse("uniform:flood"),
                                       .prompt_lengths = *Lengths::Parse("6"),
                                       .output_lengths = *Lengths::Parse("7")}},
                           .vocabulary = 9});
  const Ask first = workload.At(0, std::chrono::milliseconds(1999));
  EXPECT_EQ(first.phase, 0U);
  EXPECT_EQ(first.prompt.adapter, "calm");
  EXPECT_THAT(first.prompt.token_ids, SizeIs(5));
  EXPECT_EQ(first.prompt.max_tokens, std::nullopt);
  const Ask second = workload.At(0, seconds(2));
  EXPECT_EQ(second.phase, 1U);
  EXPECT_EQ(second.prompt.adapter, "flood");
  EXPECT_THAT(second.prompt.token_ids, SizeIs(6));
  EXPECT_EQ(second.prompt.max_tokens, 7U);
  EXPECT_EQ(workload.PhaseAt(seconds(100)), 1U);
}

}  // namespace
}  // namespace conclave::loadtest
