#include "worker/logit_edits.h"

#include <algorithm>

namespace conclave::worker {

LogitEdits::LogitEdits(const SequenceRequest& request, std::span<const scheduler::TokenId> prompt)
    : counts_output_(request.repetition_penalty != 1.0f || request.presence_penalty != 0.0f ||
                     request.frequency_penalty != 0.0f),
      forbidden_for_(request.min_tokens) {
  for (const auto& [token, bias] : request.logit_bias) Of(token).bias = bias;
  if (forbidden_for_ > 0) {
    for (const scheduler::TokenId token : request.stop_tokens) Of(token).forbidden = true;
  }
  if (request.repetition_penalty != 1.0f) {
    for (const scheduler::TokenId token : prompt) Of(token).seen = true;
  }
}

void LogitEdits::Append(scheduler::TokenId token) {
  if (counts_output_) {
    LogitEdit& edit = Of(token);
    edit.seen = true;
    ++edit.count;
  }
  if (forbidden_for_ > 0 && --forbidden_for_ == 0) {
    for (LogitEdit& edit : edits_) edit.forbidden = false;
  }
}

std::vector<LogitEdit> LogitEdits::Behind(std::span<const scheduler::TokenId> tokens) const {
  std::vector<LogitEdit> behind = edits_;
  if (counts_output_) {
    for (const scheduler::TokenId token : tokens) {
      auto edit = behind.begin() + std::ssize(edits_);  // those that are new are few
      if (const auto known = index_.find(token); known != index_.end()) {
        edit = behind.begin() + static_cast<ptrdiff_t>(known->second);
      } else {
        edit = std::find_if(edit, behind.end(), [&](const auto& e) { return e.token == token; });
        if (edit == behind.end()) edit = behind.insert(edit, {.token = token});
      }
      edit->seen = true;
      ++edit->count;
    }
  }
  if (std::ssize(tokens) >= forbidden_for_) {
    for (LogitEdit& edit : behind) edit.forbidden = false;
  }
  return behind;
}

LogitEdit& LogitEdits::Of(scheduler::TokenId token) {
  const auto [it, begun] = index_.emplace(token, edits_.size());
  if (begun) edits_.push_back({.token = token});
  return edits_[it->second];
}

}  // namespace conclave::worker
