// Rotary tables against libm, and every scaling against its authors' formulas written down once
// more.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "worker/model/rope.h"

namespace conclave::worker {
namespace {

using ::testing::HasSubstr;

using Scaling = RopeSettings::Scaling;

// DeepSeek-V2-Lite's.
constexpr RopeSettings kLite = {.theta = 10000,
                                .scaling = Scaling::kYarn,
                                .factor = 40,
                                .original_context = 4096,
                                .yarn = {.mscale = 0.707, .mscale_all_dim = 0.707}};

double LibmMscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

double LibmYarn(const RopeSettings& rope, int dim, int pair, double base) {
  const auto correction = [&](double rotations) {
    return dim * std::log(rope.original_context / (rotations * 2 * M_PI)) /
           (2 * std::log(rope.theta));
  };
  double low = correction(rope.yarn.beta_fast);
  double high = correction(rope.yarn.beta_slow);
  if (rope.yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  const double keep = 1 - std::min(std::max((pair - low) / (high - low), 0.0), 1.0);
  return base / rope.factor * (1 - keep) + base * keep;
}

double LibmLlama3(const RopeSettings& rope, double base) {
  const double wave = 2 * M_PI / base;
  if (wave < rope.original_context / rope.high_freq_factor) return base;
  if (wave > rope.original_context / rope.low_freq_factor) return base / rope.factor;
  const double smooth = (rope.original_context / wave - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * base / rope.factor + smooth * base;
}

double LibmFrequency(const RopeSettings& rope, int dim, int pair) {
  const double base = std::pow(rope.theta, -2.0 * pair / dim);
  switch (rope.scaling) {
    case Scaling::kLinear:
      return base / rope.factor;
    case Scaling::kLlama3:
      return LibmLlama3(rope, base);
    case Scaling::kYarn:
      return LibmYarn(rope, dim, pair, base);
    default:
      return base;
  }
}

double LibmAmplitude(const RopeSettings& rope) {
  if (rope.scaling != Scaling::kYarn) return 1;
  if (rope.yarn.attention_factor) return *rope.yarn.attention_factor;
  return LibmMscale(rope.factor, rope.yarn.mscale) /
         LibmMscale(rope.factor, rope.yarn.mscale_all_dim);
}

struct Case {
  const char* name;
  RopeSettings rope;
  int32_t dim;
  int64_t positions;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class RopeTables : public ::testing::TestWithParam<Case> {};

TEST_P(RopeTables, AgreeWithLibmToAFloatsLastPlace) {
  const auto& [name, rope, dim, positions] = GetParam();
  const RopeTable table = MakeRopeTable(rope, dim, true, positions);
  EXPECT_EQ(table.dim, dim + dim % 2);
  EXPECT_TRUE(table.interleaved);
  const size_t pairs = static_cast<size_t>(table.dim / 2);
  ASSERT_EQ(table.cos.size(), static_cast<size_t>(positions) * pairs);
  ASSERT_EQ(table.sin.size(), table.cos.size());
  const double scale = LibmAmplitude(rope);
  double worst = 0;
  for (int64_t position = 0; position < positions; position += 1 + positions / 999) {
    for (size_t pair = 0; pair < pairs; ++pair) {
      const double angle =
          static_cast<double>(position) * LibmFrequency(rope, dim, static_cast<int>(pair));
      const size_t at = static_cast<size_t>(position) * pairs + pair;
      worst = std::max(worst, std::fabs(table.cos[at] - std::cos(angle) * scale));
      worst = std::max(worst, std::fabs(table.sin[at] - std::sin(angle) * scale));
    }
  }
  EXPECT_LE(worst, 7e-8);
}

INSTANTIATE_TEST_SUITE_P(
    All, RopeTables,
    ::testing::Values(
        Case{"Plain", {}, 64, 4096}, Case{"OnePair", {}, 2, 100}, Case{"OnePosition", {}, 8, 1},
        Case{"OddColumns", {}, 5, 100}, Case{"LargeTheta", {.theta = 1e6}, 128, 32768},
        Case{"LongestContext", {}, 4, 1 << 20}, Case{"DeepSeekV2Lite", kLite, 64, 163840},
        Case{"NoRamp",
             {.scaling = Scaling::kYarn,
              .factor = 4,
              .original_context = 64,
              .yarn = {.beta_fast = 1, .beta_slow = 1}},
             8,
             256},
        Case{"UnequalMscales",
             {.scaling = Scaling::kYarn,
              .factor = 8,
              .original_context = 128,
              .yarn = {.mscale = 0.9}},
             8,
             1024},
        Case{"AttentionFactor",
             {.scaling = Scaling::kYarn,
              .factor = 8,
              .original_context = 128,
              .yarn = {.attention_factor = 0.75}},
             8,
             1024},
        Case{"RampBetweenPairs",
             {.scaling = Scaling::kYarn,
              .factor = 32,
              .original_context = 4096,
              .yarn = {.truncate = false}},
             64,
             131072},
        Case{"Linear", {.scaling = Scaling::kLinear, .factor = 4}, 64, 16384},
        Case{"Llama3",
             {.theta = 500000, .scaling = Scaling::kLlama3, .factor = 8, .original_context = 8192},
             128,
             131072},
        Case{"Llama3Narrow",
             {.scaling = Scaling::kLlama3,
              .factor = 2,
              .original_context = 64,
              .low_freq_factor = 1.5,
              .high_freq_factor = 1.75},
             8,
             256}),
    [](const auto& one) { return one.param.name; });

TEST(Rope, ScalesAttentionByTheSquareOfMscaleAllDim) {
  EXPECT_EQ(AttentionScaleFactor({}), 1.0);
  EXPECT_NEAR(AttentionScaleFactor(kLite), std::pow(0.1 * 0.707 * std::log(40.0) + 1, 2), 1e-14);
  RopeSettings without = kLite;
  without.yarn.mscale_all_dim = 0;
  EXPECT_EQ(AttentionScaleFactor(without), 1.0);
  RopeSettings shorter = kLite;
  shorter.factor = 1;
  EXPECT_EQ(AttentionScaleFactor(shorter), 1.0);
}

constexpr RopeDialect kDeepSeek = {.deepseek = true};

RopeSettings Read(const std::string& json, const RopeDialect& dialect = {}) {
  Config config(nlohmann::json::parse(json), "c.json");
  const RopeSettings rope = ReadRope(config, dialect);
  EXPECT_TRUE(config.status().ok()) << config.status();
  return rope;
}

TEST(Rope, IsReadFromBothGenerationsOfSettings) {
  EXPECT_EQ(Read("{}").theta, 10000.0);
  EXPECT_EQ(Read("{}", {.theta = 1e6}).theta, 1e6);
  EXPECT_EQ(Read(R"({"rope_theta": 5e5, "rope_scaling": null})").theta, 5e5);
  EXPECT_EQ(Read(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})").theta, 5e5);
  for (
      const char* yarn :
      {R"({"rope_theta": 1e5, "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
            "beta_fast": 16, "mscale": 0.707}})",
       R"({"rope_parameters": {"rope_type": "yarn", "type": "yarn", "rope_theta": 1e5, "factor": 40, "truncate": true,
            "attention_factor": null, "original_max_position_embeddings": 4096, "beta_fast": 16, "mscale": 0.707}})"}) {
    const RopeSettings rope = Read(yarn, kDeepSeek);
    EXPECT_EQ(rope.scaling, Scaling::kYarn);
    EXPECT_EQ(rope.theta, 1e5);
    EXPECT_EQ(rope.factor, 40.0);
    EXPECT_EQ(rope.original_context, 4096.0);
    EXPECT_EQ(rope.yarn.beta_fast, 16.0);
    EXPECT_EQ(rope.yarn.beta_slow, 1.0);
    EXPECT_EQ(rope.yarn.mscale, 0.707);
    EXPECT_EQ(rope.yarn.mscale_all_dim, 0.0);
  }
  for (const char* linear : {R"({"rope_scaling": {"type": "linear", "factor": 2}})",
                             R"({"rope_parameters": {"rope_type": "linear", "factor": 2.0}})"}) {
    EXPECT_EQ(Read(linear).scaling, Scaling::kLinear);
    EXPECT_EQ(Read(linear).factor, 2.0);
  }
  const RopeSettings llama3 = Read(
      R"({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "llama3", "factor": 8,
          "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 32}})");
  EXPECT_EQ(llama3.scaling, Scaling::kLlama3);
  EXPECT_EQ(llama3.original_context, 32.0);
  EXPECT_EQ(llama3.high_freq_factor, 4.0);
}

TEST(Rope, TakesTheOriginalContextFromWhereTheSettingsHaveIt) {
  constexpr char kYarn[] = R"("rope_scaling": {"type": "yarn", "factor": 2)";
  const auto original = [&](const std::string& before, const std::string& within) {
    return Read("{" + before + kYarn + within + "}}").original_context;
  };
  const std::string longest = R"("max_position_embeddings": 64, )";
  EXPECT_EQ(original(longest, ""), 64.0);
  EXPECT_EQ(original(longest, R"(, "original_max_position_embeddings": 32)"), 32.0);
  EXPECT_EQ(original(longest + R"("original_max_position_embeddings": 16, )", ""), 16.0);
}

TEST(Rope, TakesDeepSeeksOriginalContextFromItsAuthorsUnlessTheSettingsHaveIt) {
  constexpr char kYarn[] =
      R"({"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 2}})";
  EXPECT_EQ(Read(kYarn, kDeepSeek).original_context, 4096.0);
  EXPECT_EQ(Read(kYarn).original_context, 64.0);
}

TEST(Rope, ScalesDeepSeeksAttentionUnderAnyScaling) {
  constexpr char kLinear[] =
      R"({"rope_scaling": {"type": "linear", "factor": 4, "mscale_all_dim": 0.5}})";
  EXPECT_NEAR(AttentionScaleFactor(Read(kLinear, kDeepSeek)), std::pow(0.05 * std::log(4) + 1, 2),
              1e-14);
  EXPECT_EQ(AttentionScaleFactor(Read(kLinear)), 1.0);
}

TEST(Rope, CountsBothMscalesOrNoneUnlessTheyStandAlone) {
  const auto yarn = [](const std::string& keys, const RopeDialect& dialect) {
    return Read(R"({"rope_scaling": {"type": "yarn", "factor": 2,
                    "original_max_position_embeddings": 8, )" +
                    keys + "}}",
                dialect)
        .yarn;
  };
  EXPECT_EQ(yarn(R"("mscale": 0.5)", {}).mscale, 1.0);
  EXPECT_EQ(yarn(R"("mscale": 0.5)", kDeepSeek).mscale, 0.5);
  EXPECT_EQ(yarn(R"("mscale_all_dim": 0.5)", {}).mscale_all_dim, 0.0);
  EXPECT_EQ(yarn(R"("mscale_all_dim": 0.5)", kDeepSeek).mscale_all_dim, 0.5);
  EXPECT_EQ(yarn(R"("mscale": 0.5, "mscale_all_dim": 0.25)", {}).mscale_all_dim, 0.25);
  EXPECT_EQ(yarn(R"("attention_factor": 1.5)", {}).attention_factor, 1.5);
  EXPECT_EQ(yarn(R"("attention_factor": 1.5)", kDeepSeek).attention_factor, 1.5);
}

TEST(Rope, TurnsAShareOfAHeadWhereTheFamilyKnowsOne) {
  constexpr RopeDialect kGlm = {.partial = 0.5};
  EXPECT_EQ(Read("{}", kGlm).partial, 0.5);
  EXPECT_EQ(Read(R"({"partial_rotary_factor": 0.25})", kGlm).partial, 0.25);
  EXPECT_EQ(Read(R"({"rope_parameters": {"partial_rotary_factor": 0.25}})", kGlm).partial, 0.25);
  EXPECT_EQ(Read(R"({"partial_rotary_factor": 1.0})").partial, 1.0);
}

TEST(Rope, StretchesTheContextByWhatTheScalingIsFor) {
  EXPECT_EQ(StretchedContext({}, 64), 64);
  EXPECT_EQ(StretchedContext({.scaling = Scaling::kLinear, .factor = 4}, 64), 256);
  EXPECT_EQ(StretchedContext({.scaling = Scaling::kLlama3, .factor = 4}, 64), 64);
  const RopeSettings yarn = {.scaling = Scaling::kYarn, .factor = 4, .original_context = 32};
  EXPECT_EQ(StretchedContext(yarn, 32), 128);
  EXPECT_EQ(StretchedContext(yarn, 256), 256);
}

struct BadRope {
  const char* name;
  const char* json;
  const char* message;
  RopeDialect dialect = {};
};
void PrintTo(const BadRope& bad, std::ostream* out) { *out << bad.name; }

class RopeRefuses : public ::testing::TestWithParam<BadRope> {};
TEST_P(RopeRefuses, ByName) {
  Config config(nlohmann::json::parse(GetParam().json), "c.json");
  ReadRope(config, GetParam().dialect);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, RopeRefuses,
    ::testing::Values(
        BadRope{"Dynamic", R"({"rope_scaling": {"type": "dynamic", "factor": 2}})",
                "c.json: rope_scaling: rope_type is \"dynamic\", supported: default, linear, "
                "llama3, yarn"},
        BadRope{"LongRope", R"({"rope_parameters": {"rope_type": "longrope", "factor": 2}})",
                "rope_type is \"longrope\""},
        BadRope{"Unknown", R"({"rope_scaling": {"type": "su"}})", "rope_type is \"su\""},
        BadRope{"UnknownKey", R"({"rope_scaling": {"type": "linear", "factor": 2, "alpha": 1}})",
                "rope_scaling: alpha is set, which is not supported"},
        BadRope{"ByKindOfLayer", R"({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}})",
                "full_attention is set, which is not supported"},
        BadRope{"Sections", R"({"rope_scaling": {"type": "default", "mrope_section": [2, 2]}})",
                "mrope_section is set"},
        BadRope{"NoFactor",
                R"({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 8}})",
                "rope_scaling: factor is missing"},
        BadRope{"NoLinearFactor", R"({"rope_scaling": {"type": "linear"}})", "factor is missing"},
        BadRope{"NoOriginalContext", R"({"rope_scaling": {"type": "yarn", "factor": 2}})",
                "max_position_embeddings is missing"},
        BadRope{"SmallFactor",
                R"({"rope_scaling": {"type": "yarn", "factor": 0.5,
                    "original_max_position_embeddings": 8}})",
                "factor is 0.5"},
        BadRope{"TwoTypes", R"({"rope_scaling": {"type": "yarn", "rope_type": "default"}})",
                "differ"},
        BadRope{"Text", R"({"rope_scaling": "yarn"})",
                "rope_scaling: is string, expected an object"},
        BadRope{"ThetaOne", R"({"rope_theta": 1})", "rope_theta is 1"},
        BadRope{"NegativeTheta", R"({"rope_theta": -10000})", "rope_theta is -10000"},
        BadRope{"Partial", R"({"partial_rotary_factor": 0.5})",
                "partial_rotary_factor is below 1, which is not supported"},
        BadRope{"PartialWithin", R"({"rope_parameters": {"partial_rotary_factor": 0.5}})",
                "partial_rotary_factor is below 1"},
        BadRope{"PartialZero",
                R"({"partial_rotary_factor": 0})",
                "partial_rotary_factor is 0",
                {.partial = 0.5}},
        BadRope{"PartialTwo",
                R"({"partial_rotary_factor": 2})",
                "partial_rotary_factor is 2",
                {.partial = 0.5}},
        BadRope{
            "BothGenerations",
            R"({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "yarn"}})",
            "rope_scaling is set"},
        BadRope{"NoBand",
                R"({"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4,
                    "high_freq_factor": 4, "original_max_position_embeddings": 8}})",
                "low_freq_factor is not below high_freq_factor"},
        BadRope{"NoHighFactor",
                R"({"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4,
                    "original_max_position_embeddings": 8}})",
                "high_freq_factor is missing"}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace conclave::worker
