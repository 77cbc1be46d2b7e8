#pragma once
// When requests are meant to be sent in an open loop: a Poisson process drawn from a seed. It knows
// nothing of answers, so a slow server cannot slow it down. One thread.

#include <chrono>
#include <cstdint>
#include <random>

namespace conclave::loadtest {

class PoissonArrivals {
 public:
  PoissonArrivals(double per_second, uint64_t seed);  // per_second > 0

  // The next moment, since the start; never before the last one.
  std::chrono::nanoseconds Next();

 private:
  double mean_gap_;  // seconds
  double now_ = 0;   // seconds
  std::mt19937_64 random_;
};

// Uniform in [0, 1), the same on every standard library.
double Uniform(std::mt19937_64& random);

}  // namespace conclave::loadtest
