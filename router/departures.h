#pragma once
// How fast those who wait get away: the mean time between departures while somebody waited,
// exponentially weighted. Pure; its owner brings lock and time.

#include <cstddef>
#include <optional>

#include "scheduler/types.h"

namespace conclave::router {

class Departures {
 public:
  using Micros = scheduler::Micros;

  // One went at `now`; waited: somebody waits then.
  void Note(Micros now, bool waited);
  // After how long half of so many waiting have gone, so that not everybody who asks returns for
  // the one place that is free first. Nothing before any rate is known.
  std::optional<double> UntilHalfHaveGone(size_t waiting) const;  // in microseconds

 private:
  std::optional<Micros> last_;
  std::optional<double> interval_us_;
};

}  // namespace conclave::router
