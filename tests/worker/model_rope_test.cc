// Rotary tables against libm, and YaRN against the authors' formulas written down once more.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "worker/model/rope.h"

namespace conclave::worker {
namespace {

using ::testing::HasSubstr;

// DeepSeek-V2-Lite's.
constexpr RopeSettings kLite = {
    .theta = 10000,
    .yarn = true,
    .scaling = {.factor = 40, .original_context = 4096, .mscale = 0.707, .mscale_all_dim = 0.707}};

double LibmMscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

double LibmFrequency(const RopeSettings& rope, int dim, int pair) {
  const double base = std::pow(rope.theta, -2.0 * pair / dim);
  if (!rope.yarn) return base;
  const Yarn& yarn = rope.scaling;
  const auto correction = [&](double rotations) {
    return dim * std::log(yarn.original_context / (rotations * 2 * M_PI)) /
           (2 * std::log(rope.theta));
  };
  const double low = std::max(std::floor(correction(yarn.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(yarn.beta_slow)), dim - 1.0);
  if (low == high) high += 0.001;
  const double keep = 1 - std::min(std::max((pair - low) / (high - low), 0.0), 1.0);
  return base / yarn.factor * (1 - keep) + base * keep;
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
  EXPECT_EQ(table.dim, dim);
  EXPECT_TRUE(table.interleaved);
  const size_t pairs = static_cast<size_t>(dim / 2);
  ASSERT_EQ(table.cos.size(), static_cast<size_t>(positions) * pairs);
  ASSERT_EQ(table.sin.size(), table.cos.size());
  const double scale = rope.yarn ? LibmMscale(rope.scaling.factor, rope.scaling.mscale) /
                                       LibmMscale(rope.scaling.factor, rope.scaling.mscale_all_dim)
                                 : 1.0;
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
        Case{"LargeTheta", {.theta = 1e6}, 128, 32768}, Case{"LongestContext", {}, 4, 1 << 20},
        Case{"DeepSeekV2Lite", kLite, 64, 163840},
        Case{"NoRamp",
             {.yarn = true,
              .scaling = {.factor = 4, .original_context = 64, .beta_fast = 1, .beta_slow = 1}},
             8,
             256},
        Case{"UnequalMscales",
             {.yarn = true, .scaling = {.factor = 8, .original_context = 128, .mscale = 0.9}},
             8,
             1024}),
    [](const auto& one) { return one.param.name; });

TEST(Rope, ScalesAttentionByTheSquareOfMscaleAllDim) {
  EXPECT_EQ(AttentionScaleFactor({}), 1.0);
  EXPECT_NEAR(AttentionScaleFactor(kLite), std::pow(0.1 * 0.707 * std::log(40.0) + 1, 2), 1e-14);
  RopeSettings without = kLite;
  without.scaling.mscale_all_dim = 0;
  EXPECT_EQ(AttentionScaleFactor(without), 1.0);
  RopeSettings shorter = kLite;
  shorter.scaling.factor = 1;
  EXPECT_EQ(AttentionScaleFactor(shorter), 1.0);
}

RopeSettings Read(const std::string& json, absl::Status* status = nullptr, bool yarn = true) {
  Config config(nlohmann::json::parse(json), "c.json");
  const RopeSettings rope = ReadRope(config, yarn);
  if (status != nullptr) {
    *status = config.status();
  } else {
    EXPECT_TRUE(config.status().ok()) << config.status();
  }
  return rope;
}

TEST(Rope, IsReadFromBothGenerationsOfSettings) {
  EXPECT_EQ(Read("{}").theta, 10000.0);
  EXPECT_EQ(Read(R"({"rope_theta": 5e5, "rope_scaling": null})").theta, 5e5);
  EXPECT_EQ(Read(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})").theta, 5e5);
  for (
      const char* yarn :
      {R"({"rope_theta": 1e5, "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
            "beta_fast": 16, "mscale": 0.707}})",
       R"({"rope_parameters": {"rope_type": "yarn", "type": "yarn", "rope_theta": 1e5, "factor": 40, "truncate": true,
            "attention_factor": null, "original_max_position_embeddings": 4096, "beta_fast": 16, "mscale": 0.707}})"}) {
    const RopeSettings rope = Read(yarn);
    EXPECT_TRUE(rope.yarn);
    EXPECT_EQ(rope.theta, 1e5);
    EXPECT_EQ(rope.scaling.factor, 40.0);
    EXPECT_EQ(rope.scaling.original_context, 4096.0);
    EXPECT_EQ(rope.scaling.beta_fast, 16.0);
    EXPECT_EQ(rope.scaling.beta_slow, 1.0);
    EXPECT_EQ(rope.scaling.mscale, 0.707);
    EXPECT_EQ(rope.scaling.mscale_all_dim, 0.0);
  }
}

TEST(Rope, RefusesWhatItDoesNotCompute) {
  const auto message = [](const char* json, bool yarn = true) {
    absl::Status status;
    Read(json, &status, yarn);
    return std::string(status.message());
  };
  EXPECT_THAT(message(R"({"rope_scaling": {"type": "linear", "factor": 2}})"),
              HasSubstr("c.json: rope_scaling: rope_type is \"linear\", supported: default, yarn"));
  EXPECT_THAT(message(R"({"rope_parameters": {"rope_type": "yarn", "factor": 2}})", false),
              HasSubstr("rope_type is \"yarn\", supported: default"));
  EXPECT_THAT(
      message(R"({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 8}})"),
      HasSubstr("rope_scaling: factor is missing"));
  EXPECT_THAT(message(R"({"rope_scaling": {"type": "yarn", "factor": 2}})"),
              HasSubstr("original_max_position_embeddings is missing"));
  EXPECT_THAT(
      message(
          R"({"rope_scaling": {"type": "yarn", "factor": 0.5, "original_max_position_embeddings": 8}})"),
      HasSubstr("factor is 0.5"));
  EXPECT_THAT(message(R"({"rope_scaling": {"type": "yarn", "rope_type": "default"}})"),
              HasSubstr("differ"));
  EXPECT_THAT(message(R"({"rope_scaling": "yarn"})"),
              HasSubstr("rope_scaling: is string, expected an object"));
  EXPECT_THAT(message(R"({"rope_theta": 1})"), HasSubstr("rope_theta is 1"));
  EXPECT_THAT(message(R"({"rope_theta": -10000})"), HasSubstr("rope_theta is -10000"));
  EXPECT_THAT(message(R"({"partial_rotary_factor": 0.5})"),
              HasSubstr("partial_rotary_factor is set"));
  EXPECT_THAT(
      message(R"({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "yarn"}})"),
      HasSubstr("rope_scaling is set"));
  EXPECT_THAT(
      message(
          R"({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 8,
                          "attention_factor": 1.5}})"),
      HasSubstr("attention_factor is set"));
  EXPECT_THAT(
      message(
          R"({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 8,
                          "truncate": false}})"),
      HasSubstr("truncate is false"));
}

}  // namespace
}  // namespace conclave::worker
