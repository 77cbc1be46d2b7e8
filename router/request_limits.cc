#include "router/request_limits.h"

#include <algorithm>
#include <cmath>

namespace conclave::router {
namespace {

using Problem = std::optional<std::string>;

std::string Text(int64_t value) { return std::to_string(value); }

bool IsRequestIdCharacter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == ':' || c == '-';
}

Problem CheckId(const std::string& id, const RequestLimits& limits) {
  if (static_cast<int64_t>(id.size()) > limits.request_id_bytes) {
    return "request_id has " + Text(static_cast<int64_t>(id.size())) + " bytes, the limit is " +
           Text(limits.request_id_bytes);
  }
  if (!std::all_of(id.begin(), id.end(), IsRequestIdCharacter)) {
    return "request_id has a character outside A-Z a-z 0-9 . _ : -; leave it empty to be given one";
  }
  return std::nullopt;
}

Problem CheckName(const std::string& field, const std::string& name, const RequestLimits& limits) {
  if (static_cast<int64_t>(name.size()) <= limits.name_bytes) return std::nullopt;
  return field + " has " + Text(static_cast<int64_t>(name.size())) + " bytes, the limit is " +
         Text(limits.name_bytes);
}

// A number from `low` to `high`; NaN is in no range.
Problem CheckRange(const std::string& field, float value, int32_t low, int32_t high,
                   const std::string& hint = "") {
  if (value >= static_cast<float>(low) && value <= static_cast<float>(high)) return std::nullopt;
  return field + " must be from " + Text(low) + " to " + Text(high) + hint;
}

Problem CheckSampling(const Request& request) {
  if (request.temperature && !(std::isfinite(*request.temperature) && *request.temperature >= 0)) {
    return "sampling.temperature must be a finite number of at least 0 (0 is greedy)";
  }
  if (request.top_p && !(*request.top_p > 0 && *request.top_p <= 1)) {
    return "sampling.top_p must be above 0 and at most 1 (1 is off)";
  }
  if (request.top_k && *request.top_k > INT32_MAX) {
    return "sampling.top_k is " + Text(*request.top_k) + ", the limit is " + Text(INT32_MAX) +
           " (0 is off)";
  }
  if (!request.min_p) return std::nullopt;
  return CheckRange("sampling.min_p", *request.min_p, 0, 1, " (0 is off)");
}

Problem CheckPenalties(const Request& request) {
  const std::optional<float>& repetition = request.repetition_penalty;
  if (repetition && !(std::isfinite(*repetition) && *repetition > 0)) {
    return "sampling.repetition_penalty must be a finite number above 0 (1 is off)";
  }
  if (Problem problem = CheckRange("sampling.presence_penalty", request.presence_penalty, -2, 2)) {
    return problem;
  }
  return CheckRange("sampling.frequency_penalty", request.frequency_penalty, -2, 2);
}

Problem CheckLogitBias(const Request& request, const RequestLimits& limits, int32_t vocab_size) {
  const auto count = static_cast<int64_t>(request.logit_bias.size());
  if (count > limits.logit_bias) {
    return "sampling.logit_bias has " + Text(count) + " tokens, the limit is " +
           Text(limits.logit_bias);
  }
  for (const auto& [token, bias] : request.logit_bias) {
    if (token >= static_cast<uint32_t>(vocab_size)) {
      return "sampling.logit_bias has token " + Text(token) + ", the vocabulary has " +
             Text(vocab_size) + " tokens";
    }
    const std::string field = "sampling.logit_bias[" + Text(token) + "]";
    if (Problem problem = CheckRange(field, bias, -100, 100)) return problem;
  }
  return std::nullopt;
}

Problem CheckStopStrings(const std::vector<std::string>& stop, const RequestLimits& limits) {
  if (static_cast<int64_t>(stop.size()) > limits.stop_strings) {
    return "stopping.stop has " + Text(static_cast<int64_t>(stop.size())) +
           " strings, the limit is " + Text(limits.stop_strings);
  }
  for (size_t i = 0; i < stop.size(); ++i) {
    const std::string field = "stopping.stop[" + std::to_string(i) + "]";
    if (stop[i].empty()) return field + " is empty; leave it out";
    if (static_cast<int64_t>(stop[i].size()) > limits.stop_string_bytes) {
      return field + " has " + Text(static_cast<int64_t>(stop[i].size())) +
             " bytes, the limit is " + Text(limits.stop_string_bytes);
    }
  }
  return std::nullopt;
}

Problem CheckMaxTokens(const std::optional<uint32_t>& max_tokens, const RequestLimits& limits) {
  if (!max_tokens) return std::nullopt;
  if (*max_tokens == 0) {
    return "stopping.max_tokens is 0, it must be at least 1; use Score for a prompt's "
           "log-probabilities alone";
  }
  if (*max_tokens > static_cast<uint32_t>(limits.max_tokens)) {
    return "stopping.max_tokens is " + Text(*max_tokens) + ", the limit is " +
           Text(limits.max_tokens);
  }
  return std::nullopt;
}

Problem CheckMinTokens(const Request& request, const RequestLimits& limits) {
  const int64_t most =
      request.max_tokens ? int64_t{*request.max_tokens} : int64_t{limits.default_max_tokens};
  if (request.min_tokens <= most) return std::nullopt;
  return "stopping.min_tokens is " + Text(request.min_tokens) +
         ", more than max_tokens, which is " + Text(most) +
         (request.max_tokens ? "" : " where the request does not say");
}

Problem CheckSalt(const std::string& salt, const RequestLimits& limits) {
  const auto bytes = static_cast<int64_t>(salt.size());
  if (bytes <= limits.cache_salt_bytes) return std::nullopt;
  return "cache_salt has " + Text(bytes) + " bytes, the limit is " + Text(limits.cache_salt_bytes);
}

Problem CheckCompletions(const Request& request, const RequestLimits& limits) {
  if (request.completions >= 1 && request.completions <= static_cast<uint32_t>(limits.completions))
    return std::nullopt;
  return "n is " + Text(request.completions) + ", it must be from 1 to " + Text(limits.completions);
}

Problem CheckLogprobs(const Request& request, const RequestLimits& limits) {
  if (!request.logprobs || *request.logprobs <= static_cast<uint32_t>(limits.logprobs)) {
    return std::nullopt;
  }
  const bool generates = request.kind == Request::Kind::kGenerate;
  return std::string(generates ? "logprobs" : "top_logprobs") + " is " + Text(*request.logprobs) +
         ", the limit is " + Text(limits.logprobs);
}

}  // namespace

Problem CheckTokenIds(const std::string& field, const std::vector<uint32_t>& ids, int64_t limit,
                      int32_t vocab_size) {
  if (static_cast<int64_t>(ids.size()) > limit) {
    return field + " has " + Text(static_cast<int64_t>(ids.size())) + " tokens, the limit is " +
           Text(limit);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= static_cast<uint32_t>(vocab_size)) {
      return field + "[" + std::to_string(i) + "] is " + Text(ids[i]) + ", the vocabulary has " +
             Text(vocab_size) + " tokens";
    }
  }
  return std::nullopt;
}

Problem CheckPrompt(const Prompt& prompt, const RequestLimits& limits, int32_t vocab_size) {
  switch (prompt.kind) {
    case Prompt::Kind::kMissing:
      return "prompt is missing; set prompt.text or prompt.tokens";
    case Prompt::Kind::kText:
      if (static_cast<int64_t>(prompt.text.size()) <= limits.prompt_bytes) return std::nullopt;
      return "prompt.text has " + Text(static_cast<int64_t>(prompt.text.size())) +
             " bytes, the limit is " + Text(limits.prompt_bytes);
    case Prompt::Kind::kTokens:
      return CheckTokenIds("prompt.tokens", prompt.tokens, limits.prompt_tokens, vocab_size);
    case Prompt::Kind::kChat:
      return chat::CheckConversation(*prompt.chat, limits.prompt_bytes, limits.chat);
  }
  return std::nullopt;
}

RequestLimits LimitsFor(RequestLimits limits, int32_t context_limit) {
  limits.prompt_bytes =
      std::min(limits.prompt_bytes, context_limit * limits.prompt_bytes_per_position);
  return limits;
}

namespace {

Problem CheckResume(const Request& request, const RequestLimits& limits, int32_t vocab_size) {
  if (request.resume_from == 0 && request.received_tokens.empty()) return std::nullopt;
  if (request.completions > 1) {
    return "resume_from: of " + Text(request.completions) +
           " completions ask for each alone, with its seed and n = 1";
  }
  if (request.resume_from > static_cast<uint32_t>(limits.max_tokens)) {
    return "resume_from is " + Text(request.resume_from) + ", the limit of max_tokens is " +
           Text(limits.max_tokens);
  }
  const auto received = static_cast<int64_t>(request.received_tokens.size());
  if (received > 0 && received != request.resume_from) {
    return "received_token_ids has " + Text(received) + " tokens, resume_from is " +
           Text(request.resume_from);
  }
  return CheckTokenIds("received_token_ids", request.received_tokens, received, vocab_size);
}

}  // namespace

Problem CheckRequest(const Request& request, const RequestLimits& limits, int32_t vocab_size) {
  if (Problem problem = CheckId(request.id, limits)) return problem;
  if (Problem problem = CheckName("model", request.model, limits)) return problem;
  if (Problem problem = CheckName("adapter", request.adapter, limits)) return problem;
  if (Problem problem = CheckLogprobs(request, limits)) return problem;
  if (Problem problem = CheckSalt(request.cache_salt, limits)) return problem;
  if (request.kind == Request::Kind::kGenerate) {
    if (Problem problem = CheckCompletions(request, limits)) return problem;
    if (Problem problem = CheckSampling(request)) return problem;
    if (Problem problem = CheckPenalties(request)) return problem;
    if (Problem problem = CheckLogitBias(request, limits, vocab_size)) return problem;
    if (Problem problem = CheckMaxTokens(request.max_tokens, limits)) return problem;
    if (Problem problem = CheckMinTokens(request, limits)) return problem;
    if (Problem problem = CheckResume(request, limits, vocab_size)) return problem;
    if (Problem problem = CheckStopStrings(request.stop, limits)) return problem;
    if (Problem problem = CheckTokenIds("stopping.stop_token_ids", request.stop_tokens,
                                        limits.stop_token_ids, vocab_size)) {
      return problem;
    }
  }
  return CheckPrompt(request.prompt, limits, vocab_size);
}

int64_t MessageBytes(const RequestLimits& limits) {
  constexpr int64_t kIdBytes = 5;         // a uint32 as varint, at its longest
  constexpr int64_t kOthers = 256 << 10;  // names, sampling, stops; and what a prompt is over
  return std::max(limits.prompt_bytes, kIdBytes * limits.prompt_tokens) +
         int64_t{limits.stop_strings} * limits.stop_string_bytes +
         kIdBytes * (limits.stop_token_ids + limits.max_tokens) + kOthers;
}

Fit FitToContext(const Request& request, const RequestLimits& limits, int64_t prompt_tokens,
                 int32_t context_limit) {
  const bool generates = request.kind == Request::Kind::kGenerate;
  // A generated token needs a position of its own.
  const int64_t room = static_cast<int64_t>(context_limit) - (generates ? 1 : 0);
  const int64_t limit = std::min<int64_t>(room, limits.prompt_tokens);
  if (prompt_tokens == 0) return {.error = "prompt has no tokens, it needs at least 1"};
  if (prompt_tokens > limit) {
    return {.error = "prompt has " + Text(prompt_tokens) + " tokens, the limit is " + Text(limit) +
                     (limit == room ? " (the model's context is " + Text(context_limit) + ")"
                                    : std::string())};
  }
  if (!generates) return {};
  const int64_t wanted =
      request.max_tokens ? int64_t{*request.max_tokens} : int64_t{limits.default_max_tokens};
  return {.max_tokens = static_cast<int32_t>(std::min(wanted, context_limit - prompt_tokens))};
}

}  // namespace conclave::router
