#include "loadtest/adapter_mix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/loadtest/temporary_file.h"

namespace conclave::loadtest {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::string& text) {
  const auto mix = AdapterMix::Parse(text);
  return mix.ok() ? "accepted" : std::string(mix.status().message());
}

// Draws come as often as the shares say, within five deviations.
void ExpectShares(const std::string& text, const std::map<std::string, double>& shares) {
  SCOPED_TRACE(text);
  constexpr int kCount = 20'000;
  const auto mix = AdapterMix::Parse(text);
  ASSERT_TRUE(mix.ok()) << mix.status();
  std::map<std::string, int> counts;
  for (uint64_t i = 0; i < kCount; ++i) {
    Random random(7, Random::Purpose::kAdapter, i);
    ++counts[mix->Draw(random)];
  }
  ASSERT_EQ(mix->shares().size(), shares.size());
  for (const auto& [name, share] : mix->shares()) {
    ASSERT_TRUE(shares.contains(name)) << name;
    EXPECT_NEAR(share, shares.at(name), 1e-12) << name;
    EXPECT_NEAR(counts[name], kCount * share, 5 * std::sqrt(kCount * share * (1 - share)) + 1e-9)
        << name;
  }
}

TEST(AdapterMix, NamesComeInTheirShares) {
  ExpectShares("uniform:a,b,base", {{"a", 1 / 3.0}, {"b", 1 / 3.0}, {"base", 1 / 3.0}});
  ExpectShares("uniform:only", {{"only", 1}});
  ExpectShares("zipf:1:a,b,c", {{"a", 6 / 11.0}, {"b", 3 / 11.0}, {"c", 2 / 11.0}});
  ExpectShares("zipf:0:a,b", {{"a", 0.5}, {"b", 0.5}});
  ExpectShares("weights:a=3,b=1", {{"a", 0.75}, {"b", 0.25}});
  ExpectShares("file:" + TemporaryFile("a 1.5\r\n\nb 0.5\n"), {{"a", 0.75}, {"b", 0.25}});
}

TEST(AdapterMix, BadOnesAreNamed) {
  EXPECT_THAT(ErrorOf("a,b"), HasSubstr("want uniform:NAME,..."));
  EXPECT_THAT(ErrorOf("uniform:"), HasSubstr("adapter \"\": want 1 to 256"));
  EXPECT_THAT(ErrorOf("uniform:a,a"), HasSubstr("adapter \"a\": twice"));
  EXPECT_THAT(ErrorOf("uniform:a b"), HasSubstr("without spaces"));
  EXPECT_THAT(ErrorOf("zipf:a,b"), HasSubstr("S: want a number"));
  EXPECT_THAT(ErrorOf("zipf:1"), HasSubstr("adapter \"\""));
  EXPECT_THAT(ErrorOf("zipf:-0.1:a"), HasSubstr("S: out of range [0, 10]"));
  EXPECT_EQ(ErrorOf("zipf:10:a,b"), "accepted");
  EXPECT_THAT(ErrorOf("zipf:10.1:a"), HasSubstr("S: out of range"));
  EXPECT_THAT(ErrorOf("weights:a"), HasSubstr("want NAME=WEIGHT"));
  EXPECT_THAT(ErrorOf("weights:a=x"), HasSubstr("weight: want a number"));
  EXPECT_THAT(ErrorOf("weights:a=0"), HasSubstr("adapter \"a\": weight 0 is not above 0"));
  EXPECT_THAT(ErrorOf("weights:a=nan"), HasSubstr("weight: want a number"));
  EXPECT_EQ(ErrorOf("weights:a=1e9"), "accepted");
  EXPECT_THAT(ErrorOf("weights:a=1.1e9"), HasSubstr("at most 1e+09"));
}

TEST(AdapterMix, BadFilesAreNamedByLine) {
  EXPECT_THAT(ErrorOf("file:/no/such"), HasSubstr("cannot open"));
  EXPECT_THAT(ErrorOf("file:" + TemporaryFile("a 1\nb\n")), HasSubstr(":2: want NAME WEIGHT"));
  EXPECT_THAT(ErrorOf("file:" + TemporaryFile("a 1\na 1\n")),
              HasSubstr(":2: adapter \"a\": twice"));
  EXPECT_THAT(ErrorOf("file:" + TemporaryFile("\n")), HasSubstr("no adapters"));
}

TEST(AdapterMix, LimitsHoldAtTheirEdge) {
  EXPECT_EQ(ErrorOf("uniform:" + std::string(256, 'n')), "accepted");
  EXPECT_THAT(ErrorOf("uniform:" + std::string(257, 'n')), HasSubstr("1 to 256"));
  std::string names = "uniform:0";
  for (size_t i = 1; i < AdapterMix::kMaxAdapters; ++i) names += "," + std::to_string(i);
  EXPECT_EQ(ErrorOf(names), "accepted");
  EXPECT_THAT(ErrorOf(names + ",more"), HasSubstr("more than 1024 adapters"));
  const std::string lines = "a 1" + std::string(AdapterMix::kMaxFileBytes - 3, '\n');
  EXPECT_EQ(ErrorOf("file:" + TemporaryFile(lines)), "accepted");
  EXPECT_THAT(ErrorOf("file:" + TemporaryFile(lines + "\n")), HasSubstr("larger than"));
}

}  // namespace
}  // namespace conclave::loadtest
