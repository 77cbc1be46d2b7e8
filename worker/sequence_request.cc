#include "worker/sequence_request.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

using absl::InvalidArgumentError;
using absl::StrCat;
using scheduler::TokenId;

absl::Status CheckLength(const SequenceRequest& request, int32_t limit) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) return InvalidArgumentError("the prompt has no tokens");
  if (prompt > limit) {
    return InvalidArgumentError(StrCat("prompt has ", prompt, " tokens, the limit is ", limit));
  }
  if (request.max_tokens < 0 || prompt + request.max_tokens > limit) {
    return InvalidArgumentError(StrCat("prompt (", prompt, ") and max_tokens (", request.max_tokens,
                                       ") exceed the context limit of ", limit));
  }
  if (request.min_tokens < 0 || request.min_tokens > request.max_tokens) {
    return InvalidArgumentError(
        StrCat("min_tokens is ", request.min_tokens, ", max_tokens is ", request.max_tokens));
  }
  return absl::OkStatus();
}

absl::Status CheckToken(TokenId token, int32_t vocab) {
  if (token >= 0 && token < vocab) return absl::OkStatus();
  return InvalidArgumentError(StrCat("token id ", token, " is outside the vocabulary of ", vocab));
}

// What was generated elsewhere is what this request could have generated, and not all of it.
absl::Status CheckGenerated(const SequenceRequest& request, int32_t vocab) {
  const auto generated = static_cast<int64_t>(request.generated.size());
  if (generated > 0 && generated >= request.max_tokens) {
    return InvalidArgumentError(StrCat("generated has ", generated, " tokens, max_tokens is ",
                                       request.max_tokens, ": nothing is left to generate"));
  }
  for (const TokenId token : request.generated) {
    CONCLAVE_RETURN_IF_ERROR(CheckToken(token, vocab));
    const auto& stops = request.stop_tokens;
    if (std::find(stops.begin(), stops.end(), token) == stops.end()) continue;
    return InvalidArgumentError(
        StrCat("generated has the stop token ", token, ", which ended the sequence"));
  }
  return absl::OkStatus();
}

absl::Status CheckTold(const SequenceRequest& request) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t positions = prompt + static_cast<int64_t>(request.generated.size());
  if (request.prompt_logprobs_told < 0 || request.prompt_logprobs_told >= prompt) {
    return InvalidArgumentError(StrCat("prompt_logprobs_told is ", request.prompt_logprobs_told,
                                       ", the prompt has ", prompt, " tokens"));
  }
  if (request.routing_told < 0 || request.routing_told > positions) {
    return InvalidArgumentError(StrCat("routing_told is ", request.routing_told,
                                       ", the sequence has ", positions, " positions"));
  }
  return absl::OkStatus();
}

absl::Status CheckRange(const char* name, float value, float low, float high) {
  if (value >= low && value <= high) return absl::OkStatus();  // NaN is in no range
  return InvalidArgumentError(StrCat(name, " is ", value, ", it must be from ", low, " to ", high));
}

absl::Status CheckSampling(const SequenceRequest& request) {
  if (!(request.temperature >= 0.0f) || !std::isfinite(request.temperature)) {
    return InvalidArgumentError(
        StrCat("temperature is ", request.temperature, ", it must be 0 or more"));
  }
  if (!(request.top_p > 0.0f && request.top_p <= 1.0f)) {
    return InvalidArgumentError(
        StrCat("top_p is ", request.top_p, ", it must be above 0 and at most 1"));
  }
  if (request.top_k < 0) return InvalidArgumentError(StrCat("top_k is ", request.top_k));
  CONCLAVE_RETURN_IF_ERROR(CheckRange("min_p", request.min_p, 0.0f, 1.0f));
  if (!(request.repetition_penalty > 0.0f) || !std::isfinite(request.repetition_penalty)) {
    return InvalidArgumentError(
        StrCat("repetition_penalty is ", request.repetition_penalty, ", it must be above 0"));
  }
  CONCLAVE_RETURN_IF_ERROR(CheckRange("presence_penalty", request.presence_penalty, -2.0f, 2.0f));
  return CheckRange("frequency_penalty", request.frequency_penalty, -2.0f, 2.0f);
}

absl::Status CheckBias(const SequenceRequest& request, int32_t vocab, int32_t limit) {
  if (request.logit_bias.size() > static_cast<size_t>(limit)) {
    return InvalidArgumentError(
        StrCat("logit_bias has ", request.logit_bias.size(), " tokens, the limit is ", limit));
  }
  for (const auto& [token, bias] : request.logit_bias) {
    CONCLAVE_RETURN_IF_ERROR(CheckToken(token, vocab));
    CONCLAVE_RETURN_IF_ERROR(CheckRange("logit_bias", bias, -100.0f, 100.0f));
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const SequenceRequest& request, int32_t vocab, int32_t limit) {
  if (request.stop_tokens.size() > static_cast<size_t>(limit)) {
    return InvalidArgumentError(
        StrCat(request.stop_tokens.size(), " stop tokens, the limit is ", limit));
  }
  for (const TokenId token : request.stop_tokens) {
    CONCLAVE_RETURN_IF_ERROR(CheckToken(token, vocab));
  }
  const std::unordered_set<TokenId> stops(request.stop_tokens.begin(), request.stop_tokens.end());
  if (request.min_tokens == 0 || stops.size() < static_cast<size_t>(vocab)) return absl::OkStatus();
  return InvalidArgumentError(
      StrCat("min_tokens is ", request.min_tokens, ", but every token is a stop token"));
}

}  // namespace

bool SameOutput(const SequenceRequest& a, const SequenceRequest& b) {
  SequenceRequest same = b;  // where they may differ, as in `a`
  same.id = a.id;
  same.prompt = a.prompt;
  same.generated = a.generated;
  same.prompt_logprobs = a.prompt_logprobs;
  same.prompt_logprobs_told = a.prompt_logprobs_told;
  same.routing = a.routing;
  same.routing_told = a.routing_told;
  same.reads_at_once = a.reads_at_once;
  same.deadline = a.deadline;
  same.name = a.name;
  same.take_over = a.take_over;
  return same == a;
}

absl::Status CheckSequenceRequest(const SequenceRequest& request, const ModelSpec& spec,
                                  const SequenceLimits& limits) {
  CONCLAVE_RETURN_IF_ERROR(CheckLength(request, limits.context_limit));
  for (const TokenId token : request.prompt) {
    CONCLAVE_RETURN_IF_ERROR(CheckToken(token, spec.vocab));
  }
  CONCLAVE_RETURN_IF_ERROR(CheckGenerated(request, spec.vocab));
  CONCLAVE_RETURN_IF_ERROR(CheckTold(request));
  CONCLAVE_RETURN_IF_ERROR(CheckSampling(request));
  CONCLAVE_RETURN_IF_ERROR(CheckBias(request, spec.vocab, limits.logit_bias));
  CONCLAVE_RETURN_IF_ERROR(CheckStops(request, spec.vocab, limits.stop_tokens));
  if (request.logprobs && (*request.logprobs < 0 || *request.logprobs > kMaxTopLogprobs)) {
    return InvalidArgumentError(
        StrCat("logprobs is ", *request.logprobs, ", the limit is ", kMaxTopLogprobs));
  }
  if (request.cache_salt.size() > static_cast<size_t>(limits.cache_salt)) {
    return InvalidArgumentError(StrCat("cache_salt has ", request.cache_salt.size(),
                                       " bytes, the limit is ", limits.cache_salt));
  }
  if (request.name.size() > static_cast<size_t>(limits.name)) {
    return InvalidArgumentError(
        StrCat("request_id has ", request.name.size(), " bytes, the limit is ", limits.name));
  }
  if (request.adapter.size() > static_cast<size_t>(limits.adapter)) {
    return InvalidArgumentError(
        StrCat("adapter has ", request.adapter.size(), " bytes, the limit is ", limits.adapter));
  }
  return absl::OkStatus();
}

}  // namespace conclave::worker
