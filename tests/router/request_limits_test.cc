#include "router/request_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <ostream>

namespace conclave::router {
namespace {

using testing::HasSubstr;

constexpr int32_t kVocab = 1000;

const RequestLimits kLimits = {.prompt_bytes = 10,
                               .prompt_tokens = 5,
                               .max_tokens = 50,
                               .default_max_tokens = 7,
                               .stop_strings = 2,
                               .stop_string_bytes = 3,
                               .stop_token_ids = 2,
                               .logit_bias = 2,
                               .completions = 3,
                               .logprobs = 20,
                               .request_id_bytes = 8,
                               .name_bytes = 4};

Request Generate() {
  Request request;
  request.prompt = {.kind = Prompt::Kind::kText, .text = "hello"};
  return request;
}

struct Row {
  const char* name;
  std::function<void(Request&)> change;
  std::string message;  // part of it; empty: accepted

  friend std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.name; }
};

class RequestLimitsRow : public testing::TestWithParam<Row> {};

TEST_P(RequestLimitsRow, IsJudged) {
  Request request = Generate();
  GetParam().change(request);
  const std::optional<std::string> problem = CheckRequest(request, kLimits, kVocab);
  if (GetParam().message.empty()) {
    EXPECT_EQ(problem, std::nullopt);
  } else {
    ASSERT_TRUE(problem);
    EXPECT_THAT(*problem, HasSubstr(GetParam().message));
  }
}

using R = Request&;
const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

INSTANTIATE_TEST_SUITE_P(
    All, RequestLimitsRow,
    testing::Values(
        Row{"Plain", [](R) {}, ""}, Row{"IdAtLimit", [](R r) { r.id = "aZ0._:-9"; }, ""},
        Row{"IdTooLong", [](R r) { r.id = "123456789"; }, "request_id has 9 bytes, the limit is 8"},
        Row{"IdWithSpace", [](R r) { r.id = "a b"; }, "request_id has a character outside"},
        Row{"IdWithNul", [](R r) { r.id = std::string("a\0b", 3); }, "request_id has a character"},
        Row{"IdWithUmlaut", [](R r) { r.id = "\xc3\xa4"; }, "request_id has a character outside"},
        Row{"ModelAtLimit", [](R r) { r.model = "abcd"; }, ""},
        Row{"ModelTooLong", [](R r) { r.model = "abcde"; }, "model has 5 bytes, the limit is 4"},
        Row{"SaltAtLimit", [](R r) { r.cache_salt = std::string(64, '\0'); }, ""},
        Row{"SaltTooLong", [](R r) { r.cache_salt = std::string(65, 's'); },
            "cache_salt has 65 bytes, the limit is 64"},
        Row{"AdapterTooLong", [](R r) { r.adapter = "abcde"; }, "adapter has 5 bytes"},
        Row{"Greedy", [](R r) { r.temperature = 0.0f; }, ""},
        Row{"TemperatureNegative", [](R r) { r.temperature = -0.1f; }, "sampling.temperature"},
        Row{"TemperatureNan", [](R r) { r.temperature = kNan; }, "sampling.temperature"},
        Row{"TemperatureInfinite", [](R r) { r.temperature = kInf; }, "sampling.temperature"},
        Row{"TopPOne", [](R r) { r.top_p = 1.0f; }, ""},
        Row{"TopPZero", [](R r) { r.top_p = 0.0f; }, "sampling.top_p"},
        Row{"TopPAboveOne", [](R r) { r.top_p = std::nextafter(1.0f, 2.0f); }, "sampling.top_p"},
        Row{"TopPNan", [](R r) { r.top_p = kNan; }, "sampling.top_p"},
        Row{"TopKAtLimit", [](R r) { r.top_k = INT32_MAX; }, ""},
        Row{"TopKTooLarge", [](R r) { r.top_k = 1u << 31; }, "sampling.top_k is 2147483648"},
        Row{"MinPAtItsEnds", [](R r) { r.min_p = 1.0f; }, ""},
        Row{"MinPOff", [](R r) { r.min_p = 0.0f; }, ""},
        Row{"MinPAboveOne", [](R r) { r.min_p = std::nextafter(1.0f, 2.0f); },
            "sampling.min_p must be from 0 to 1 (0 is off)"},
        Row{"MinPNegative", [](R r) { r.min_p = -1e-45f; }, "sampling.min_p"},
        Row{"MinPNan", [](R r) { r.min_p = kNan; }, "sampling.min_p"},
        Row{"RepetitionSmallest", [](R r) { r.repetition_penalty = 1e-45f; }, ""},
        Row{"RepetitionZero", [](R r) { r.repetition_penalty = 0.0f; },
            "sampling.repetition_penalty must be a finite number above 0 (1 is off)"},
        Row{"RepetitionNegative", [](R r) { r.repetition_penalty = -1.0f; },
            "sampling.repetition_penalty"},
        Row{"RepetitionInfinite", [](R r) { r.repetition_penalty = kInf; },
            "sampling.repetition_penalty"},
        Row{"RepetitionNan", [](R r) { r.repetition_penalty = kNan; },
            "sampling.repetition_penalty"},
        Row{"PresenceAtItsEnds", [](R r) { r.presence_penalty = -2.0f; }, ""},
        Row{"PresenceTooGreat", [](R r) { r.presence_penalty = 2.001f; },
            "sampling.presence_penalty must be from -2 to 2"},
        Row{"PresenceNan", [](R r) { r.presence_penalty = kNan; }, "sampling.presence_penalty"},
        Row{"FrequencyAtItsEnds", [](R r) { r.frequency_penalty = 2.0f; }, ""},
        Row{"FrequencyTooSmall", [](R r) { r.frequency_penalty = -2.001f; },
            "sampling.frequency_penalty must be from -2 to 2"},
        Row{"FrequencyInfinite", [](R r) { r.frequency_penalty = kInf; },
            "sampling.frequency_penalty"},
        Row{"BiasAtItsLimits",
            [](R r) {
              r.logit_bias = {{0, -100.0f}, {999, 100.0f}};
            },
            ""},
        Row{"BiasOfTooManyTokens",
            [](R r) {
              r.logit_bias = {{0, 1.0f}, {1, 1.0f}, {2, 1.0f}};
            },
            "sampling.logit_bias has 3 tokens, the limit is 2"},
        Row{"BiasOutsideVocabulary", [](R r) { r.logit_bias = {{1000, 1.0f}}; },
            "sampling.logit_bias has token 1000, the vocabulary has 1000 tokens"},
        Row{"BiasTooGreat", [](R r) { r.logit_bias = {{7, 100.5f}}; },
            "sampling.logit_bias[7] must be from -100 to 100"},
        Row{"BiasNan", [](R r) { r.logit_bias = {{7, kNan}}; }, "sampling.logit_bias[7] must be"},
        Row{"BiasMinusInfinite", [](R r) { r.logit_bias = {{7, -kInf}}; },
            "sampling.logit_bias[7] must be"},
        Row{"MinTokensAtMaxTokens",
            [](R r) {
              r.max_tokens = 9;
              r.min_tokens = 9;
            },
            ""},
        Row{"MinTokensAboveMaxTokens",
            [](R r) {
              r.max_tokens = 9;
              r.min_tokens = 10;
            },
            "stopping.min_tokens is 10, more than max_tokens, which is 9"},
        Row{"MinTokensAboveTheDefault", [](R r) { r.min_tokens = 8; },
            "stopping.min_tokens is 8, more than max_tokens, which is 7 where the request does not "
            "say"},
        Row{"MinTokensHuge", [](R r) { r.min_tokens = UINT32_MAX; },
            "stopping.min_tokens is 4294967295"},
        Row{"MaxTokensZero", [](R r) { r.max_tokens = 0; }, "stopping.max_tokens is 0"},
        Row{"MaxTokensAtLimit", [](R r) { r.max_tokens = 50; }, ""},
        Row{"MaxTokensTooMany", [](R r) { r.max_tokens = 51; },
            "stopping.max_tokens is 51, the limit is 50"},
        Row{"MaxTokensHuge", [](R r) { r.max_tokens = UINT32_MAX; },
            "stopping.max_tokens is 4294967295, the limit is 50"},
        Row{"StopAtLimit",
            [](R r) {
              r.stop = {"abc", "d"};
            },
            ""},
        Row{"StopTooMany",
            [](R r) {
              r.stop = {"a", "b", "c"};
            },
            "stopping.stop has 3 strings, the limit is 2"},
        Row{"StopTooLong",
            [](R r) {
              r.stop = {"a", "abcd"};
            },
            "stopping.stop[1] has 4 bytes, the limit is 3"},
        Row{"StopEmpty", [](R r) { r.stop = {""}; }, "stopping.stop[0] is empty"},
        Row{"StopIdsAtLimit",
            [](R r) {
              r.stop_tokens = {0, 999};
            },
            ""},
        Row{"StopIdsTooMany",
            [](R r) {
              r.stop_tokens = {1, 2, 3};
            },
            "stopping.stop_token_ids has 3 tokens, the limit is 2"},
        Row{"StopIdOutsideVocabulary", [](R r) { r.stop_tokens = {1000}; },
            "stopping.stop_token_ids[0] is 1000, the vocabulary has 1000 tokens"},
        Row{"CompletionsAtLimit", [](R r) { r.completions = 3; }, ""},
        Row{"CompletionsNone", [](R r) { r.completions = 0; }, "n is 0, it must be from 1 to 3"},
        Row{"CompletionsTooMany", [](R r) { r.completions = 4; },
            "n is 4, it must be from 1 to 3"},
        Row{"LogprobsAtLimit", [](R r) { r.logprobs = 20; }, ""},
        Row{"LogprobsTooMany", [](R r) { r.logprobs = 21; }, "logprobs is 21, the limit is 20"},
        Row{"PromptMissing", [](R r) { r.prompt.kind = Prompt::Kind::kMissing; },
            "prompt is missing; set prompt.text or prompt.tokens"},
        Row{"PromptTextAtLimit", [](R r) { r.prompt.text = std::string(10, 'a'); }, ""},
        Row{"PromptTextTooLong", [](R r) { r.prompt.text = std::string(11, 'a'); },
            "prompt.text has 11 bytes, the limit is 10"},
        Row{"PromptAnyBytes", [](R r) { r.prompt.text = std::string("\0\xff\x80", 3); }, ""},
        Row{"PromptTokensAtLimit",
            [](R r) {
              r.prompt = {.kind = Prompt::Kind::kTokens, .tokens = {0, 1, 2, 3, 999}};
            },
            ""},
        Row{"PromptTokensTooMany",
            [](R r) {
              r.prompt = {.kind = Prompt::Kind::kTokens, .tokens = {0, 1, 2, 3, 4, 5}};
            },
            "prompt.tokens has 6 tokens, the limit is 5"},
        Row{"PromptTokenOutsideVocabulary",
            [](R r) {
              r.prompt = {.kind = Prompt::Kind::kTokens, .tokens = {0, 1000}};
            },
            "prompt.tokens[1] is 1000, the vocabulary has 1000 tokens"},
        Row{"PromptTokenNegative",
            [](R r) { r.prompt = {.kind = Prompt::Kind::kTokens, .tokens = {UINT32_MAX}}; },
            "prompt.tokens[0] is 4294967295"},
        Row{"ScoreIgnoresSampling",
            [](R r) {
              r.kind = Request::Kind::kScore;
              r.max_tokens = 0;
            },
            ""},
        Row{"ScoreLogprobsTooMany",
            [](R r) {
              r.kind = Request::Kind::kScore;
              r.logprobs = 21;
            },
            "top_logprobs is 21, the limit is 20"}),
    [](const auto& row) { return row.param.name; });

TEST(LimitsFor, LeaveOfATextWhatTheContextMayHold) {
  const RequestLimits limits = {.prompt_bytes = 1000, .prompt_bytes_per_position = 10};
  EXPECT_EQ(LimitsFor(limits, 99).prompt_bytes, 990);
  EXPECT_EQ(LimitsFor(limits, 101).prompt_bytes, 1000);
  EXPECT_LT(RequestLimits().prompt_bytes, 1'000'000);
}

TEST(FitToContext, ClipsToWhatThePromptLeaves) {
  Request request = Generate();
  request.max_tokens = 10;
  const RequestLimits limits = {.prompt_tokens = 100, .default_max_tokens = 7};
  EXPECT_EQ(FitToContext(request, limits, 6, 16).max_tokens, 10);
  EXPECT_EQ(FitToContext(request, limits, 7, 16).max_tokens, 9);
  EXPECT_EQ(FitToContext(request, limits, 15, 16).max_tokens, 1);
}

TEST(FitToContext, UsesTheDefaultWhenNothingIsAsked) {
  const RequestLimits limits = {.prompt_tokens = 100, .default_max_tokens = 7};
  EXPECT_EQ(FitToContext(Generate(), limits, 2, 16).max_tokens, 7);
  EXPECT_EQ(FitToContext(Generate(), limits, 12, 16).max_tokens, 4);
}

TEST(FitToContext, RefusesAPromptThatLeavesNoRoom) {
  const RequestLimits limits = {.prompt_tokens = 10000};
  EXPECT_EQ(FitToContext(Generate(), limits, 8191, 8192).error, "");
  EXPECT_EQ(FitToContext(Generate(), limits, 8192, 8192).error,
            "prompt has 8192 tokens, the limit is 8191 (the model's context is 8192)");
  EXPECT_EQ(FitToContext(Generate(), limits, 10001, 100000).error,
            "prompt has 10001 tokens, the limit is 10000");
  EXPECT_EQ(FitToContext(Generate(), limits, 0, 8192).error,
            "prompt has no tokens, it needs at least 1");
}

TEST(FitToContext, LetsAScoreFillTheContext) {
  Request request = Generate();
  request.kind = Request::Kind::kScore;
  const RequestLimits limits = {.prompt_tokens = 100};
  EXPECT_EQ(FitToContext(request, limits, 16, 16).error, "");
  EXPECT_EQ(FitToContext(request, limits, 16, 16).max_tokens, 0);
  EXPECT_NE(FitToContext(request, limits, 17, 16).error, "");
}

// The message the largest request makes, and one a little too long whose refusal names the field.
TEST(RequestLimits, LeaveRoomForTheLongestMessageThatMayPass) {
  const RequestLimits limits;
  const int64_t room = MessageBytes(limits);
  EXPECT_GT(room, limits.prompt_bytes + limits.stop_strings * limits.stop_string_bytes + 1024);
  EXPECT_GT(room, int64_t{5} * limits.prompt_tokens + 1024);
  EXPECT_GT(room, limits.prompt_bytes + int64_t{5} * limits.max_tokens) << "ids to resume behind";
  EXPECT_LT(room, 2 * limits.prompt_bytes + int64_t{5} * limits.max_tokens);
  EXPECT_EQ(MessageBytes({.prompt_bytes = limits.prompt_bytes + 1000}), room + 1000);
}

}  // namespace
}  // namespace conclave::router
