#pragma once
// Which logits of one sequence are changed before its next token is sampled: biases, tokens that
// would end it too early, tokens that were there already. Holds the tokens concerned, never the
// vocabulary. A function of the request and the tokens so far, and it lives as long as they do, so
// a sequence that is preempted and computed again samples as if it never was. One thread at a time.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "scheduler/types.h"
#include "worker/device/device.h"
#include "worker/sequence_request.h"

namespace conclave::worker {

class LogitEdits {
 public:
  LogitEdits() = default;  // none, ever
  // For the first token after `prompt`. The request is valid. Reads the prompt only if it counts.
  LogitEdits(const SequenceRequest& request, std::span<const scheduler::TokenId> prompt);

  // `token` was sampled.
  void Append(scheduler::TokenId token);

  // For the next token, each token once. Valid until Append.
  std::span<const LogitEdit> edits() const { return edits_; }
  // For the token behind `tokens`, if they were appended.
  std::vector<LogitEdit> Behind(std::span<const scheduler::TokenId> tokens) const;
  // Append may change them.
  bool change() const { return counts_output_ || forbidden_for_ > 0; }

 private:
  LogitEdit& Of(scheduler::TokenId token);  // begun on first use

  bool counts_output_ = false;
  int32_t forbidden_for_ = 0;  // tokens yet to come before one may end the sequence
  std::vector<LogitEdit> edits_;
  std::unordered_map<scheduler::TokenId, size_t> index_;  // into edits_
};

}  // namespace conclave::worker
