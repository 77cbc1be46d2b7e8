#include "scheduler/speculation_rule.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::scheduler {

SpeculationRule::SpeculationRule(const Options& options)
    : options_(options), length_(std::min(options.first, options.tokens)), rest_(options.rest) {
  CONCLAVE_CHECK(options.tokens >= 0 && options.tokens <= kMaxTokens);
  CONCLAVE_CHECK(options.first >= 1 && options.misses >= 1);
  CONCLAVE_CHECK(options.rest >= 1 && options.rest <= options.rest_max);
}

void SpeculationRule::Took(int32_t proposed, int32_t accepted) {
  CONCLAVE_CHECK(accepted >= 0 && accepted <= proposed);
  if (proposed == 0) {
    resting_ = std::max(0, resting_ - 1);
    return;
  }
  if (accepted == 0) return Miss();
  misses_ = 0;
  rest_ = options_.rest;
  if (accepted == proposed) {
    // Of fewer than it wanted, because there was no room for more, that says little.
    if (proposed >= length_) length_ = std::min(2 * length_, options_.tokens);
  } else if (2 * accepted < proposed) {
    length_ = std::max(1, length_ / 2);
  }
}

void SpeculationRule::Miss() {
  length_ = std::max(1, length_ / 2);
  if (++misses_ < options_.misses) return;
  misses_ = options_.misses - 1;  // after the rest one is enough
  resting_ = rest_;
  rest_ = std::min(2 * rest_, options_.rest_max);
}

}  // namespace conclave::scheduler
