#pragma once
// When the tokens of a run's requests were sent and heard: the sender and the client are threads of
// one process, and a request's seed is its number here. Any thread; a token is sent once and then
// heard once.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "services/bench/pacer.h"

namespace conclave::services::bench {

inline int64_t Nanoseconds() {
  return std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
}

class Flights {
 public:
  Flights(size_t requests, uint32_t tokens)
      : tokens_(tokens), begun_(requests), sent_(requests * tokens), heard_(requests * tokens) {}

  size_t requests() const { return begun_.size(); }
  uint32_t tokens() const { return tokens_; }

  void Begin(uint64_t request) { begun_[request] = Nanoseconds(); }
  void Send(uint64_t request, uint32_t token) { Note(sent_, request, token); }
  void Hear(uint64_t request, uint32_t token) { Note(heard_, request, token); }

  // In microseconds, of those that were heard: from the call to the first token, and of each token
  // from where it was made.
  std::vector<double> FirstTokens() const;
  std::vector<double> Tokens() const;

 private:
  using Times = std::vector<std::atomic<int64_t>>;
  void Note(Times& times, uint64_t request, uint32_t token) const {
    const size_t at = request * tokens_ + token;
    if (token < tokens_ && at < times.size()) times[at].store(Nanoseconds());
  }

  const uint32_t tokens_;
  std::vector<int64_t> begun_;  // of the thread that begins them, and read when all have ended
  Times sent_;
  Times heard_;
};

inline std::vector<double> Flights::FirstTokens() const {
  std::vector<double> times;
  for (size_t i = 0; i < begun_.size(); ++i) {
    const int64_t heard = heard_[i * tokens_];
    if (heard > 0) times.push_back(static_cast<double>(heard - begun_[i]) * 1e-3);
  }
  return times;
}

inline std::vector<double> Flights::Tokens() const {
  std::vector<double> times;
  for (size_t at = 0; at < heard_.size(); ++at) {
    if (heard_[at] > 0) times.push_back(static_cast<double>(heard_[at] - sent_[at]) * 1e-3);
  }
  return times;
}

}  // namespace conclave::services::bench
