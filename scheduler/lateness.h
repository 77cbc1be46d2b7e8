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
  };
  explicit Lateness(const Options& options);

  // The peer owes an answer for longer than answers take. True if it is avoided from now on; false
  // if it was already: what it owes from before says nothing new. Peers are numbered from 0; a
  // negative number is nobody, whom nothing avoids.
  bool NoteLate(int32_t peer, Micros now);
  bool Avoids(int32_t peer, Micros now) const;
  // Peers, ascending, that were avoided for `at_least` so long at a time, and since then were not
  // prompt for as long: they are late again and again, where a busy machine makes anybody late now
  // and then. That they are asked again does not yet clear them.
  std::vector<int32_t> Lasting(Micros now, Micros at_least) const;

 private:
  struct Term {
    Micros length{0};  // of the last avoidance; 0: there was none
    Micros until{0};
  };
  const Options options_;
  std::vector<Term> terms_;  // [peer]
};

}  // namespace conclave::scheduler
