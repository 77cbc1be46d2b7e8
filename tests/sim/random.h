#pragma once
// The simulation's randomness: the same numbers from the same seed on every machine, which the
// distributions of <random> do not promise.

#include <cmath>
#include <cstdint>

namespace conclave::sim {

// splitmix64 (Steele, Lea, Flood 2014).
inline uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed)) {}

  uint64_t Next() { return Mix(state_++); }
  // Of [low, high].
  int32_t Between(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(Next() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int32_t percent) { return Between(1, 100) <= percent; }
  // Exponentially distributed; the time between two events of a Poisson process.
  double Exponential(double mean) {
    const double uniform = static_cast<double>(Next() >> 11) * 0x1.0p-53;
    return -mean * std::log1p(-uniform);
  }

 private:
  uint64_t state_;
};

}  // namespace conclave::sim
