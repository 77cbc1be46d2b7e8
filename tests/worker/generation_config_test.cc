#include "worker/model/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <ostream>

namespace conclave::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int32_t kVocab = 100;

absl::StatusOr<GenerationConfig> Read(const std::optional<std::string>& text,
                                      const std::string& config = "{}") {
  Config settings(nlohmann::json::parse(config), "c.json");
  return ReadGenerationConfig(text, "g.json", settings, kVocab, ModelLimits());
}

TEST(GenerationConfig, IsGreedyUnlessSamplingIsAskedFor) {
  for (const char* greedy :
       {R"({"temperature": 0.7, "top_p": 0.9, "min_p": 0.1})",
        R"({"do_sample": false, "temperature": 0.7})", R"({"do_sample": null, "top_k": 3})"}) {
    const auto read = Read(greedy);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->defaults.temperature, 0.0f);
    EXPECT_EQ(read->defaults.top_p, 1.0f);
    EXPECT_EQ(read->defaults.top_k, 0);
    EXPECT_EQ(read->defaults.min_p, 0.0f);
  }
}

TEST(GenerationConfig, SaysHowToSample) {
  const auto sampled = Read(
      R"({"do_sample": true, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.05,
          "repetition_penalty": 1.05, "max_new_tokens": 2048})");
  ASSERT_TRUE(sampled.ok()) << sampled.status();
  EXPECT_EQ(sampled->defaults.temperature, 0.7f);
  EXPECT_EQ(sampled->defaults.top_p, 0.9f);
  EXPECT_EQ(sampled->defaults.top_k, 5);
  EXPECT_EQ(sampled->defaults.min_p, 0.05f);
  EXPECT_EQ(sampled->defaults.repetition_penalty, 1.05f);
  EXPECT_EQ(sampled->defaults.max_new_tokens, 2048);
  const auto bare = Read(R"({"do_sample": true})");
  EXPECT_EQ(bare->defaults.temperature, 1.0f);
  EXPECT_EQ(bare->defaults.top_p, 1.0f);
  EXPECT_EQ(bare->defaults.top_k, 50);
  EXPECT_EQ(bare->defaults.min_p, 0.0f);
  EXPECT_EQ(bare->defaults.repetition_penalty, 1.0f);
  EXPECT_EQ(bare->defaults.max_new_tokens, 0);
}

TEST(GenerationConfig, PenalisesRepetitionWithoutSamplingToo) {
  EXPECT_EQ(Read(R"({"repetition_penalty": 1.1})")->defaults.repetition_penalty, 1.1f);
}

TEST(GenerationConfig, EndsAtTheFilesTokensAndElseAtTheConfigs) {
  EXPECT_THAT(Read(R"({"eos_token_id": [3, 4]})", R"({"eos_token_id": 5})")->eos,
              ElementsAre(3, 4));
  EXPECT_THAT(Read(R"({"eos_token_id": 3})", R"({"eos_token_id": 5})")->eos, ElementsAre(3));
  EXPECT_THAT(Read(R"({})", R"({"eos_token_id": 5})")->eos, ElementsAre(5));
  EXPECT_THAT(Read(std::nullopt, R"({"eos_token_id": [5, 6]})")->eos, ElementsAre(5, 6));
  EXPECT_THAT(Read(std::nullopt)->eos, IsEmpty());
}

TEST(GenerationConfig, PassesOverEndsThatTheVocabularyDoesNotHave) {
  EXPECT_THAT(Read(R"({"eos_token_id": [99, 100]})")->eos, ElementsAre(99));
  EXPECT_THAT(Read(R"({"eos_token_id": 50279})", R"({"eos_token_id": 5})")->eos, ElementsAre(5));
  EXPECT_THAT(Read(std::nullopt, R"({"eos_token_id": -1})")->eos, IsEmpty());
}

TEST(GenerationConfig, RemarksOnWhatItDoesNotApply) {
  const auto read = Read(
      R"({"num_beams": 4, "typical_p": 0.9, "suppress_tokens": [1, 2], "house_rule": true,
          "min_new_tokens": 3})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->remarks, ElementsAre("g.json: house_rule is not known and not applied",
                                         "g.json: min_new_tokens is 3, which is not applied",
                                         "g.json: num_beams is 4, which is not applied",
                                         "g.json: suppress_tokens is [1,2], which is not applied",
                                         "g.json: typical_p is 0.9, which is not applied"));
}

TEST(GenerationConfig, HasNoRemarkOnWhatChangesNothing) {
  const auto read = Read(
      R"({"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": 0, "transformers_version": "5.23.0",
          "use_cache": false, "_from_model_config": true, "num_beams": 1, "typical_p": 1.0,
          "no_repeat_ngram_size": 0, "length_penalty": 1.0, "suppress_tokens": null,
          "renormalize_logits": false, "do_sample": true, "temperature": 0.6})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->remarks, IsEmpty());
}

struct BadFile {
  const char* name;
  const char* text;
  const char* message;
  friend std::ostream& operator<<(std::ostream& out, const BadFile& row) { return out << row.name; }
};

class BadGenerationConfig : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadGenerationConfig, IsRefusedByName) {
  const absl::Status status = Read(GetParam().text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(std::string("g.json: ") + GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadGenerationConfig,
    ::testing::Values(
        BadFile{"NoObject", "[]", "is array, expected an object"},
        BadFile{"NoJson", "{", "not JSON"},
        BadFile{"DoSampleNumber", R"({"do_sample": 1})",
                "do_sample is number, expected true or false"},
        BadFile{"TemperatureNegative", R"({"temperature": -1})", "temperature is -1"},
        BadFile{"TemperatureHuge", R"({"temperature": 1e9})", "temperature is 1e+09"},
        BadFile{"TemperatureString", R"({"temperature": "hot"})",
                "temperature is string, expected a number"},
        BadFile{"TopPZero", R"({"top_p": 0})", "top_p is 0"},
        BadFile{"TopPAboveOne", R"({"do_sample": true, "top_p": 1.5})", "top_p is 1.5"},
        BadFile{"TopKNegative", R"({"top_k": -1})", "top_k is -1"},
        BadFile{"TopKFraction", R"({"top_k": 1.5})", "top_k is number, expected an integer"},
        BadFile{"MinPNegative", R"({"min_p": -0.1})", "min_p is -0.1"},
        BadFile{"MinPAboveOne", R"({"min_p": 1.1})", "min_p is 1.1"},
        BadFile{"MinPList", R"({"min_p": [0.1]})", "min_p is array, expected a number"},
        BadFile{"RepetitionZero", R"({"repetition_penalty": 0.0})", "repetition_penalty is 0"},
        BadFile{"RepetitionNegative", R"({"repetition_penalty": -1.2})",
                "repetition_penalty is -1.2"},
        BadFile{"RepetitionBool", R"({"repetition_penalty": true})",
                "repetition_penalty is boolean, expected a number"},
        BadFile{"MaxNewTokensZero", R"({"max_new_tokens": 0})", "max_new_tokens is 0"},
        BadFile{"MaxNewTokensHuge", R"({"max_new_tokens": 18446744073709551615})",
                "max_new_tokens is 18446744073709551615"},
        BadFile{"EosString", R"({"eos_token_id": [1, "x"]})",
                "eos_token_id is string, expected an integer"},
        BadFile{"EosNegative", R"({"eos_token_id": -2})", "eos_token_id is -2"}),
    [](const auto& row) { return row.param.name; });

TEST(GenerationConfig, BlamesTheConfigForItsOwnEos) {
  EXPECT_THAT(std::string(Read("{}", R"({"eos_token_id": -2})").status().message()),
              HasSubstr("c.json: eos_token_id is -2"));
}

}  // namespace
}  // namespace conclave::worker
