#pragma once
// Which peers a home had better not ask for a while, because they answered late. It costs a peer
// its share of the rows as long as others own the same experts, and not for ever: it is asked again
// after a time that is bounded, doubles when the peer is late again soon after, and halves with
// every such time in which it was not.
//
// Pure and deterministic: time is an argument. One thread, or one lock: the home's.

#include <cstdint>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

class Lateness {
 public:
  struct Options {
    Micros avoid_min = std::chrono::milliseconds(200);  // after a peer was late, at first
    Micros avoid_max = std::chrono::seconds(5);         // >= avoid_min
    // Who is late for so great a share of what it is asked is slow, whereas a busy machine makes
    // anybody late now and then; of about the last 1 / `weight` questions.
    double slow = 0.2;
    double weight = 0.125;
  };
  explicit Lateness(const Options& options);

  // The peer owes an answer for longer than answers take. True if it is avoided from now on; false
  // if it was already: what it owes from before says nothing new. Peers are numbered from 0; a
  // negative number is nobody, whom nothing avoids.
  bool NoteLate(int32_t peer, Micros now);
  bool Avoids(int32_t peer, Micros now) const;
  void NotePrompt(int32_t peer);  // the peer answered in time
  // Peers, ascending, that are slow: they stay so while they are avoided, when they are asked again
  // until they have shown otherwise, and no longer than avoid_max if they are not asked.
  std::vector<int32_t> Slow(Micros now) const;

 private:
  struct Term {
    Micros length{0};  // of the last avoidance; 0: there was none
    Micros until{0};
    double share = 0;  // of late answers among the last
  };
  Term& TermOf(int32_t peer);
  const Options options_;
  std::vector<Term> terms_;  // [peer]
};

}  // namespace conclave::scheduler
