#include "router/transcript.h"

#include <algorithm>
#include <utility>

namespace conclave::router {

using scheduler::FinishReason;
using scheduler::TokenId;

Transcript::Transcript(const Tokenizer* tokenizer, StopStrings stops, int32_t prompt_tokens,
                       int32_t min_tokens)
    : stops_(std::move(stops)),
      prompt_tokens_(prompt_tokens),
      min_tokens_(static_cast<size_t>(min_tokens)) {
  if (tokenizer != nullptr) detokenizer_.emplace(*tokenizer);
}

Delta Transcript::Take(SequenceEvent event) {
  if (finished_) return {};
  if (tokens_.empty()) {
    const auto cached = std::min<int64_t>(event.cached_prompt_tokens, prompt_tokens_);
    cached_prompt_tokens_ = static_cast<int32_t>(cached);
  }
  Delta delta;
  // The token that stopped the sequence is reported as a token, not as text.
  const bool stopped = event.end == FinishReason::kStop;
  const size_t texts = event.tokens.size() - (stopped && !event.tokens.empty() ? 1 : 0);
  size_t used = 0;
  bool running = true;
  while (running && used < texts) {
    const TokenId token = event.tokens[used++];
    running = Push(token, tokens_.size() + used > min_tokens_, delta.text);
  }
  if (running) used = event.tokens.size();

  event.tokens.resize(used);
  event.logprobs.resize(std::min(used, event.logprobs.size()));
  tokens_.insert(tokens_.end(), event.tokens.begin(), event.tokens.end());
  if (!running || event.end) delta.finish = End(event, delta.text);
  delta.tokens = std::move(event.tokens);
  delta.logprobs = std::move(event.logprobs);
  delta.prompt_logprobs = std::move(event.prompt_logprobs);
  delta.routing = std::move(event.routing);
  started_ = started_ || !delta.empty();
  finished_ = delta.finish.has_value();
  return delta;
}

bool Transcript::Push(TokenId token, bool may_stop, std::string& text) {
  if (detokenizer_) text += stops_.Push(detokenizer_->Push(token), may_stop);
  return !stops_.stopped_by();
}

Finish Transcript::End(const SequenceEvent& event, std::string& text) {
  if (detokenizer_ && !stops_.stopped_by()) {
    text += stops_.Push(detokenizer_->Flush(), tokens_.size() > min_tokens_);
  }
  text += stops_.Flush();
  Finish finish{.reason = event.end.value_or(FinishReason::kStop),
                .prompt_tokens = prompt_tokens_,
                .completion_tokens = static_cast<int32_t>(tokens_.size()),
                .cached_prompt_tokens = cached_prompt_tokens_};
  if (stops_.stopped_by()) {
    finish.reason = FinishReason::kStop;
    finish.stop_string = *stops_.stopped_by();
  } else if (finish.reason == FinishReason::kStop && !event.tokens.empty()) {
    finish.stop_token = event.tokens.back();
  }
  return finish;
}

}  // namespace conclave::router
