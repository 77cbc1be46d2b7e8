#pragma once
// What a worker is asked to run, with everything decided, and what of it no worker takes. Any
// thread.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/types.h"
#include "worker/model/spec.h"

namespace conclave::worker {

struct SequenceRequest {
  uint64_t id = 0;      // unique on its link
  std::string adapter;  // the digest of its version; empty: the base model
  std::vector<scheduler::TokenId> prompt;
  // What another worker sampled behind the prompt before it was lost: the sequence goes on as if
  // it had been sampled here, and what is told begins behind it. max_tokens, min_tokens and all
  // that counts the output count it.
  std::vector<scheduler::TokenId> generated;
  int32_t prompt_logprobs_told = 0;  // of the prompt's, the first so many are not told again
  int32_t routing_told = 0;          // of all positions, likewise
  float temperature = 0.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;
  uint64_t seed = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // over prompt and output
  float presence_penalty = 0.0f;    // over the output
  float frequency_penalty = 0.0f;
  std::vector<std::pair<scheduler::TokenId, float>> logit_bias;  // each token once
  int32_t max_tokens = 0;                                        // 0: score the prompt only
  int32_t min_tokens = 0;  // the first so many are not of stop_tokens
  std::vector<scheduler::TokenId> stop_tokens;
  std::optional<int32_t> logprobs;  // of sampled tokens; the value: how many alternatives
  bool prompt_logprobs = false;     // alternatives as in `logprobs`
  bool routing = false;
  bool reads_at_once = false;  // nobody slow reads what is reported: see Engine::Options
  std::string cache_salt;      // KV blocks are shared among requests of one salt only
  std::optional<scheduler::Micros> deadline;  // on the engine's clock (Engine::Now)
  // What it is kept by if its link closes; empty: it ends then.
  std::string name;
  // To go on behind so many tokens of the sequence that is kept by this name, if that was asked for
  // the same output and has so many: they are told as SequenceEvent::replayed. Else it begins anew.
  std::optional<int32_t> take_over;

  bool operator==(const SequenceRequest&) const = default;
};

// Both give the same output, apart from how much of it is told, if their prompts are equal.
bool SameOutput(const SequenceRequest& a, const SequenceRequest& b);

struct SequenceLimits {
  int32_t context_limit = 0;  // prompt and max_tokens together
  int32_t stop_tokens = 96;   // of a client and its model
  int32_t logit_bias = 1024;  // tokens with a bias
  int32_t cache_salt = 64;    // bytes
  int32_t name = 192;         // bytes
  int32_t adapter = 128;      // bytes
};

// INVALID_ARGUMENT for what can never work (token outside the vocabulary, too long, a parameter out
// of range). Routers check before; a worker does not rely on it.
absl::Status CheckSequenceRequest(const SequenceRequest& request, const ModelSpec& spec,
                                  const SequenceLimits& limits);

}  // namespace conclave::worker
