#pragma once
// What a worker says of a sequence and what a client is told of its request, as plain data. Any
// thread.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/types.h"

namespace conclave::router {

struct Logprob {
  scheduler::TokenId token = 0;
  float logprob = 0;
  std::vector<std::pair<scheduler::TokenId, float>> top;
};

// Of consecutive tokens, little-endian [tokens, layers, top_k].
struct Routing {
  uint32_t layers = 0;
  uint32_t top_k = 0;
  uint32_t experts = 0;
  std::string slots;    // uint16
  std::string weights;  // float32
  std::vector<uint32_t> layer_indices;
};

// One step's news of one sequence.
struct SequenceEvent {
  std::vector<scheduler::TokenId> tokens;
  std::vector<Logprob>
      logprobs;  // of the last tokens; of all but those that another worker had told
  std::vector<Logprob> prompt_logprobs;
  std::optional<Routing> routing;
  uint32_t cached_prompt_tokens = 0;           // with the first token
  std::optional<scheduler::FinishReason> end;  // the last event
};

struct Finish {
  scheduler::FinishReason reason = scheduler::FinishReason::kStop;
  std::optional<scheduler::TokenId> stop_token;
  std::string stop_string;
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_prompt_tokens = 0;
};

// What goes to the client next; grows until it is sent.
struct Delta {
  std::string text;  // valid UTF-8, whole characters
  std::vector<scheduler::TokenId> tokens;
  std::vector<Logprob> logprobs;
  std::vector<Logprob> prompt_logprobs;
  std::optional<Routing> routing;
  std::optional<Finish> finish;

  bool empty() const {
    return text.empty() && tokens.empty() && logprobs.empty() && prompt_logprobs.empty() &&
           !routing && !finish;
  }
  // About how much memory it takes.
  int64_t bytes() const;
  // `next` follows this one; this one has no finish.
  void Append(Delta next);
};

}  // namespace conclave::router
