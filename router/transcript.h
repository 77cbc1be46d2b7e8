#pragma once
// A request's output as it comes: tokens into text, text held back where it may become a stop
// string, the end and its reason. One per request; one thread at a time; the tokenizer must outlive
// it.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "router/delta.h"
#include "router/stop_strings.h"
#include "router/streaming_detokenizer.h"
#include "router/tokenizer.h"

namespace conclave::router {

class Transcript {
 public:
  // tokenizer: null makes tokens without text. No stop string ends with one of the first
  // min_tokens.
  Transcript(const Tokenizer* tokenizer, StopStrings stops, int32_t prompt_tokens,
             int32_t min_tokens = 0);

  // What the client may have of this event. A stop string ends the output within it: what follows
  // is dropped and finished() is true although the worker goes on. Nothing comes after that.
  Delta Take(SequenceEvent event);

  bool finished() const { return finished_; }
  // Whether the client was given anything that another attempt would give again.
  bool started() const { return started_; }
  // All tokens so far: with the prompt, the parameters and the seed they are what another worker
  // needs to go on.
  const std::vector<scheduler::TokenId>& tokens() const { return tokens_; }

 private:
  // Text of token i of the event; false if a stop string ended the output with it.
  bool Push(scheduler::TokenId token, bool may_stop, std::string& text);
  Finish End(const SequenceEvent& event, std::string& text);

  std::optional<StreamingDetokenizer> detokenizer_;
  StopStrings stops_;
  const int32_t prompt_tokens_;
  const size_t min_tokens_;
  int32_t cached_prompt_tokens_ = 0;
  std::vector<scheduler::TokenId> tokens_;
  bool started_ = false;
  bool finished_ = false;
};

}  // namespace conclave::router
