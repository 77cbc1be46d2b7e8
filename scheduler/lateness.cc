#include "scheduler/lateness.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::scheduler {

Lateness::Lateness(const Options& options) : options_(options) {
  CONCLAVE_CHECK(options.avoid_min > Micros(0) && options.avoid_min <= options.avoid_max);
  CONCLAVE_CHECK(options.weight > 0 && options.weight <= 1);
}

Lateness::Term& Lateness::TermOf(int32_t peer) {
  const auto index = static_cast<size_t>(peer);
  if (index >= terms_.size()) terms_.resize(index + 1);
  return terms_[index];
}

bool Lateness::NoteLate(int32_t peer, Micros now) {
  Term& term = TermOf(peer);
  term.share += (1 - term.share) * options_.weight;
  if (Avoids(peer, now)) return false;
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

void Lateness::NotePrompt(int32_t peer) {
  Term& term = TermOf(peer);
  term.share -= term.share * options_.weight;
}

std::vector<int32_t> Lateness::Slow(Micros now) const {
  std::vector<int32_t> slow;
  for (size_t peer = 0; peer < terms_.size(); ++peer) {
    const Term& term = terms_[peer];
    if (term.share >= options_.slow && now < term.until + options_.avoid_max)
      slow.push_back(static_cast<int32_t>(peer));
  }
  return slow;
}

}  // namespace conclave::scheduler
