#include "scheduler/lateness.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::scheduler {

Lateness::Lateness(const Options& options) : options_(options) {
  CONCLAVE_CHECK(options.avoid_min > Micros(0) && options.avoid_min <= options.avoid_max);
}

bool Lateness::NoteLate(int32_t peer, Micros now) {
  const auto index = static_cast<size_t>(peer);
  if (index >= terms_.size()) terms_.resize(index + 1);
  if (Avoids(peer, now)) return false;
  Term& term = terms_[index];
  Micros length = term.length;
  for (Micros prompt = now - term.until; length > Micros(0) && prompt >= term.length;
       prompt -= term.length) {
    length /= 2;
  }
  term.length = std::clamp(2 * length, options_.avoid_min, options_.avoid_max);
  term.until = now + term.length;
  return true;
}

bool Lateness::Avoids(int32_t peer, Micros now) const {
  const auto index = static_cast<size_t>(peer);
  return peer >= 0 && index < terms_.size() && now < terms_[index].until;
}

std::vector<int32_t> Lateness::Lasting(Micros now, Micros at_least) const {
  std::vector<int32_t> lasting;
  for (size_t peer = 0; peer < terms_.size(); ++peer) {
    const Term& term = terms_[peer];
    if (term.length >= at_least && now < term.until + term.length)
      lasting.push_back(static_cast<int32_t>(peer));
  }
  return lasting;
}

}  // namespace conclave::scheduler
