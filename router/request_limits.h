#pragma once
// What a request may ask for. Two gates: one that costs nothing and stands before the tokenizer,
// one that fits the prompt's tokens into the model's context. Both are pure; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "router/chat/conversation.h"
#include "router/request.h"
#include "scheduler/types.h"

namespace conclave::router {

struct RequestLimits {
  int64_t prompt_bytes = int64_t{6} * 131072;  // of text, or all that is written in a
                                               // chat; languages need 2 to 5 for a token
  int64_t prompt_bytes_per_position = 64;      // of text, for each position of the model's context
  int32_t prompt_tokens = 131072;              // whatever the model's context is
  int32_t max_tokens = 131072;                 // that a request may name
  int32_t default_max_tokens = 256;            // of a request that names none
  int32_t stop_strings = 16;
  int32_t stop_string_bytes = 256;  // of each
  int32_t stop_token_ids = 32;      // the model's end-of-sequence tokens not counted
  int32_t logit_bias = 1024;        // tokens with a bias
  int32_t completions = 32;         // of one request
  int32_t logprobs = 20;            // alternatives per token
  int32_t request_id_bytes = 128;
  int32_t name_bytes = 256;  // of a model or an adapter
  int32_t cache_salt_bytes = 64;
  chat::ConversationLimits chat;
};

// What a model of so many positions leaves of the limits: a text that could not fit is not worth
// tokenising.
RequestLimits LimitsFor(RequestLimits limits, int32_t context_limit);

// What is wrong with the request, naming the field and the way out; nothing if it may go on to the
// tokenizer. vocab_size: token ids must be below it.
std::optional<std::string> CheckRequest(const Request& request, const RequestLimits& limits,
                                        int32_t vocab_size);

// The same for a prompt alone (Tokenize).
std::optional<std::string> CheckPrompt(const Prompt& prompt, const RequestLimits& limits,
                                       int32_t vocab_size);

// `ids` of `field` against their number and the vocabulary.
std::optional<std::string> CheckTokenIds(const std::string& field, const std::vector<uint32_t>& ids,
                                         int64_t limit, int32_t vocab_size);

// The longest message whose request may pass the limits, whatever its encoding: above it a server
// need not read on to refuse. Well below it is room for what is a little too long, so that the
// refusal can name the field.
int64_t MessageBytes(const RequestLimits& limits);

struct Fit {
  int32_t max_tokens = 0;  // 0 for a score
  std::string error;       // not empty: it does not fit
};

// How many tokens a request whose prompt has `prompt_tokens` may generate. Asking for more than the
// context leaves is clipped (the stream then ends with LENGTH); a prompt that leaves nothing is an
// error.
Fit FitToContext(const Request& request, const RequestLimits& limits, int64_t prompt_tokens,
                 int32_t context_limit);

}  // namespace conclave::router
