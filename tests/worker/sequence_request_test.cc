// What a worker takes and refuses, at each limit.

#include "worker/sequence_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <ostream>

namespace conclave::worker {
namespace {

using ::testing::HasSubstr;
using Code = absl::StatusCode;

struct Row {
  const char* name;
  std::function<void(SequenceRequest&)> change;
  std::string message;  // part of it; empty: taken
  Code code = Code::kInvalidArgument;

  friend std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.name; }
};

class SequenceRequestRow : public ::testing::TestWithParam<Row> {};

TEST_P(SequenceRequestRow, IsJudged) {
  ModelSpec spec;
  spec.vocab = 100;
  SequenceRequest request = {.prompt = {1, 2, 3}, .max_tokens = 5};
  GetParam().change(request);
  const absl::Status status =
      CheckSequenceRequest(request, spec, {.context_limit = 10, .stop_tokens = 2, .logit_bias = 2});
  if (GetParam().message.empty()) {
    EXPECT_TRUE(status.ok()) << status;
  } else {
    EXPECT_EQ(status.code(), GetParam().code);
    EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
  }
}

using R = SequenceRequest&;
constexpr float kMany = 1e30f;

INSTANTIATE_TEST_SUITE_P(
    All, SequenceRequestRow,
    ::testing::Values(
        Row{"Plain", [](R) {}, ""}, Row{"Score", [](R r) { r.max_tokens = 0; }, ""},
        Row{"NoPrompt", [](R r) { r.prompt.clear(); }, "the prompt has no tokens"},
        Row{"PromptTooLong", [](R r) { r.prompt.assign(11, 1); }, "prompt has 11 tokens"},
        Row{"FillsTheContext", [](R r) { r.max_tokens = 7; }, ""},
        Row{"BeyondTheContext", [](R r) { r.max_tokens = 8; }, "exceed the context limit of 10"},
        Row{"MaxTokensNegative", [](R r) { r.max_tokens = -1; }, "max_tokens (-1)"},
        Row{"AllButOneGenerated",
            [](R r) {
              r.generated = {1, 2, 3, 4};
            },
            ""},
        Row{"AllGenerated",
            [](R r) {
              r.generated = {1, 2, 3, 4, 5};
            },
            "generated has 5 tokens, max_tokens is 5: nothing is left to generate"},
        Row{"GeneratedByAScore",
            [](R r) {
              r.max_tokens = 0;
              r.generated = {1};
            },
            "generated has 1 tokens, max_tokens is 0"},
        Row{"GeneratedNoToken",
            [](R r) {
              r.generated = {1, 100};
            },
            "token id 100"},
        Row{"GeneratedAnEnd",
            [](R r) {
              r.generated = {1, 7};
              r.stop_tokens = {7};
            },
            "generated has the stop token 7, which ended the sequence"},
        Row{"AllOfThePromptTold", [](R r) { r.prompt_logprobs_told = 2; }, ""},
        Row{"MoreOfThePromptTold", [](R r) { r.prompt_logprobs_told = 3; },
            "prompt_logprobs_told is 3, the prompt has 3 tokens"},
        Row{"PromptToldNegative", [](R r) { r.prompt_logprobs_told = -1; },
            "prompt_logprobs_told is -1"},
        Row{"AllRoutingTold",
            [](R r) {
              r.generated = {1};
              r.routing_told = 4;
            },
            ""},
        Row{"MoreRoutingTold", [](R r) { r.routing_told = 4; },
            "routing_told is 4, the sequence has 3 positions"},
        Row{"NameAtItsLimit", [](R r) { r.name.assign(192, 'n'); }, ""},
        Row{"NameTooLong", [](R r) { r.name.assign(193, 'n'); },
            "request_id has 193 bytes, the limit is 192"},
        Row{"TokenAtTheEnd",
            [](R r) {
              r.prompt = {0, 99};
            },
            ""},
        Row{"TokenBeyondTheEnd", [](R r) { r.prompt = {100}; },
            "token id 100 is outside the vocabulary of 100"},
        Row{"TokenNegative", [](R r) { r.prompt = {-1}; }, "token id -1"},
        Row{"TemperatureNegative", [](R r) { r.temperature = -1.0f; }, "temperature is -1"},
        Row{"TemperatureNan", [](R r) { r.temperature = NAN; }, "temperature is nan"},
        Row{"TopPZero", [](R r) { r.top_p = 0.0f; }, "top_p is 0"},
        Row{"TopKNegative", [](R r) { r.top_k = -1; }, "top_k is -1"},
        Row{"MinPOfOne", [](R r) { r.min_p = 1.0f; }, ""},
        Row{"MinPTooGreat", [](R r) { r.min_p = 1.5f; }, "min_p is 1.5, it must be from 0 to 1"},
        Row{"MinPNan", [](R r) { r.min_p = NAN; }, "min_p is nan"},
        Row{"RepetitionExtreme", [](R r) { r.repetition_penalty = kMany; }, ""},
        Row{"RepetitionZero", [](R r) { r.repetition_penalty = 0.0f; }, "repetition_penalty is 0"},
        Row{"RepetitionInfinite", [](R r) { r.repetition_penalty = INFINITY; },
            "repetition_penalty is inf"},
        Row{"PresenceTooGreat", [](R r) { r.presence_penalty = kMany; }, "presence_penalty is"},
        Row{"FrequencyNan", [](R r) { r.frequency_penalty = NAN; }, "frequency_penalty is nan"},
        Row{"BiasAtItsLimits", [](R r) { r.logit_bias = {{0, 100.0f}, {99, -100.0f}}; }, ""},
        Row{"BiasOfTooMany", [](R r) { r.logit_bias = {{0, 1.0f}, {1, 1.0f}, {2, 1.0f}}; },
            "logit_bias has 3 tokens, the limit is 2"},
        Row{"BiasTooGreat", [](R r) { r.logit_bias = {{0, 101.0f}}; }, "logit_bias is 101"},
        Row{"BiasOfAForeignToken", [](R r) { r.logit_bias = {{100, 1.0f}}; }, "token id 100"},
        Row{"MinTokensAll", [](R r) { r.min_tokens = 5; }, ""},
        Row{"MinTokensTooMany", [](R r) { r.min_tokens = 6; }, "min_tokens is 6, max_tokens is 5"},
        Row{"MinTokensNegative", [](R r) { r.min_tokens = -1; }, "min_tokens is -1"},
        Row{"StopsAtTheirLimit", [](R r) { r.stop_tokens = {0, 99}; }, ""},
        Row{"StopsTooMany", [](R r) { r.stop_tokens = {0, 1, 2}; },
            "3 stop tokens, the limit is 2"},
        Row{"StopOutside", [](R r) { r.stop_tokens = {100}; }, "token id 100"},
        Row{"LogprobsAtLimit", [](R r) { r.logprobs = 20; }, ""},
        Row{"LogprobsTooMany", [](R r) { r.logprobs = 21; }, "logprobs is 21, the limit is 20"},
        Row{"AdapterAtLimit", [](R r) { r.adapter.assign(128, 'a'); }, ""},
        Row{"AdapterTooLong", [](R r) { r.adapter.assign(129, 'a'); },
            "adapter has 129 bytes, the limit is 128"}),
    [](const auto& row) { return row.param.name; });

TEST(SequenceRequest, MayNotForbidEveryToken) {
  ModelSpec spec;
  spec.vocab = 2;
  SequenceRequest request = {.prompt = {1}, .max_tokens = 2, .stop_tokens = {0, 1, 0}};
  const SequenceLimits limits = {.context_limit = 10};
  EXPECT_TRUE(CheckSequenceRequest(request, spec, limits).ok());
  request.min_tokens = 1;
  EXPECT_THAT(std::string(CheckSequenceRequest(request, spec, limits).message()),
              HasSubstr("every token is a stop token"));
  request.stop_tokens = {0, 0};
  EXPECT_TRUE(CheckSequenceRequest(request, spec, limits).ok());
}

}  // namespace
}  // namespace conclave::worker
