#include "loadtest/arrivals.h"

#include <algorithm>
#include <cmath>

#include "scheduler/check.h"

namespace conclave::loadtest {

double Uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

PoissonArrivals::PoissonArrivals(double per_second, uint64_t seed)
    : mean_gap_(1 / per_second), random_(seed) {
  CONCLAVE_CHECK(per_second > 0);
}

std::chrono::nanoseconds PoissonArrivals::Next() {
  constexpr double kNever = 1e9;  // seconds; what a time in nanoseconds can still be added to
  now_ = std::min(now_ - std::log1p(-Uniform(random_)) * mean_gap_, kNever);
  return std::chrono::nanoseconds(std::llround(now_ * 1e9));
}

}  // namespace conclave::loadtest
