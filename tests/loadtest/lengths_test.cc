#include "loadtest/lengths.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/loadtest/temporary_file.h"

namespace conclave::loadtest {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kCount = 20'000;

std::vector<uint32_t> Draws(const std::string& text, uint64_t seed = 1, int count = kCount) {
  const absl::StatusOr<Lengths> lengths = Lengths::Parse(text);
  EXPECT_TRUE(lengths.ok()) << lengths.status();
  std::vector<uint32_t> draws;
  for (int i = 0; i < count; ++i) {
    Random random(seed, Random::Purpose::kPromptLength, static_cast<uint64_t>(i));
    draws.push_back(lengths->Draw(random));
  }
  return draws;
}

std::string ErrorOf(const std::string& text, const Lengths::Limits& limits = {}) {
  const auto lengths = Lengths::Parse(text, limits);
  return lengths.ok() ? "accepted" : std::string(lengths.status().message());
}

TEST(Lengths, FixedOnesAreAlwaysThat) {
  EXPECT_THAT(Draws("7", 1, 3), ElementsAre(7, 7, 7));
  EXPECT_THAT(Draws("fixed:1", 1, 2), ElementsAre(1, 1));
}

TEST(Lengths, UniformOnesReachBothEndsAlike) {
  std::map<uint32_t, int> counts;
  for (const uint32_t length : Draws("uniform:3:6")) ++counts[length];
  ASSERT_EQ(counts.size(), 4U);
  EXPECT_EQ(counts.begin()->first, 3U);
  for (const auto& [length, count] : counts) {
    EXPECT_NEAR(count, kCount / 4, 5 * std::sqrt(kCount * 0.1875)) << length;
  }
}

TEST(Lengths, LogNormalOnesHaveTheirMedianAndSpread) {
  std::vector<uint32_t> draws = Draws("lognormal:1000:0.5");
  std::sort(draws.begin(), draws.end());
  EXPECT_NEAR(draws[kCount / 2], 1000, 25);
  // 84.13 % lie below one deviation.
  EXPECT_NEAR(draws[static_cast<size_t>(kCount * 0.8413)], 1000 * std::exp(0.5), 60);
  EXPECT_THAT(Draws("lognormal:9:0", 1, 2), ElementsAre(9, 9));
}

TEST(Lengths, ExtremeDrawsAreCut) {
  const std::vector<uint32_t> draws = Draws("lognormal:1000:10");
  EXPECT_EQ(*std::min_element(draws.begin(), draws.end()), 1U);
  EXPECT_EQ(*std::max_element(draws.begin(), draws.end()), Lengths::kMaxTokens);
}

TEST(Lengths, OnesOfAFileComeAsOftenAsTheyAreThere) {
  std::map<uint32_t, int> counts;
  for (const uint32_t length : Draws("file:" + TemporaryFile("5\n\n9\r\n5\n5"))) ++counts[length];
  ASSERT_EQ(counts.size(), 2U);
  EXPECT_NEAR(counts[9], kCount / 4, 5 * std::sqrt(kCount * 0.1875));
}

TEST(Lengths, ASeedMakesThemAgain) {
  EXPECT_EQ(Draws("uniform:1:1000", 3), Draws("uniform:1:1000", 3));
  EXPECT_NE(Draws("uniform:1:1000", 3), Draws("uniform:1:1000", 4));
}

TEST(Lengths, BadOnesAreNamed) {
  EXPECT_THAT(ErrorOf("0"), HasSubstr("N: want a whole number in [1, 1048576]"));
  EXPECT_THAT(ErrorOf("fixed:-1"), HasSubstr("N: want"));
  EXPECT_EQ(ErrorOf("1048576"), "accepted");
  EXPECT_THAT(ErrorOf("1048577"), HasSubstr("N: want"));
  EXPECT_THAT(ErrorOf("uniform:0:5"), HasSubstr("LOW: want"));
  EXPECT_THAT(ErrorOf("uniform:1:x"), HasSubstr("HIGH: want"));
  EXPECT_EQ(ErrorOf("uniform:5:5"), "accepted");
  EXPECT_THAT(ErrorOf("uniform:6:5"), HasSubstr("HIGH is below LOW"));
  EXPECT_EQ(ErrorOf("lognormal:5:10"), "accepted");
  EXPECT_THAT(ErrorOf("lognormal:5:10.1"), HasSubstr("SIGMA: want"));
  EXPECT_THAT(ErrorOf("lognormal:5:nan"), HasSubstr("SIGMA: want"));
  EXPECT_THAT(ErrorOf("lognormal:5:-1"), HasSubstr("SIGMA: want"));
  EXPECT_THAT(ErrorOf("gauss:5:1"), HasSubstr("want N, fixed:N, uniform"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("N: want"));
}

TEST(Lengths, BadFilesAreNamedByLine) {
  EXPECT_THAT(ErrorOf("file:/no/such/file"), HasSubstr("cannot open"));
  EXPECT_THAT(ErrorOf("file:" + TemporaryFile("5\nx\n")), HasSubstr(":2: length: want a whole"));
  EXPECT_THAT(ErrorOf("file:" + TemporaryFile("\n")), HasSubstr("no lengths"));
  const std::string path = "file:" + TemporaryFile("5\n6\n");
  EXPECT_EQ(ErrorOf(path, {.lines = 2}), "accepted");
  EXPECT_THAT(ErrorOf(path, {.lines = 1}), HasSubstr(":2: more than 1 lengths"));
  EXPECT_EQ(ErrorOf(path, {.file_bytes = 4}), "accepted");
  EXPECT_THAT(ErrorOf(path, {.file_bytes = 3}), HasSubstr("larger than 3 bytes"));
}

}  // namespace
}  // namespace conclave::loadtest
