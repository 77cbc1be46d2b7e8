#include "loadtest/random.h"

#include <cmath>
#include <numbers>

#include "scheduler/check.h"

namespace conclave::loadtest {
namespace {

constexpr uint64_t kStep = 0x9E3779B97F4A7C15;

uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

}  // namespace

Random::Random(uint64_t seed, Purpose purpose, uint64_t index)
    : state_(Mix(Mix(Mix(seed + kStep) + static_cast<uint64_t>(purpose) * kStep) + index * kStep)) {
}

uint64_t Random::operator()() { return Mix(state_ += kStep); }

double Uniform(Random& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

uint32_t Below(Random& random, uint32_t bound) {
  CONCLAVE_CHECK(bound > 0);
  return static_cast<uint32_t>((random() >> 32) * bound >> 32);
}

double Exponential(Random& random) { return -std::log1p(-Uniform(random)); }

// Box and Muller's; the second value is not kept, so that a draw has no memory.
double Normal(Random& random) {
  const double radius = std::sqrt(2 * Exponential(random));
  return radius * std::cos(2 * std::numbers::pi * Uniform(random));
}

// Marsaglia and Tsang, A simple method for generating gamma variables (2000).
double Gamma(Random& random, double shape) {
  CONCLAVE_CHECK(shape > 0);
  if (shape < 1) {
    const double boost = std::pow(1 - Uniform(random), 1 / shape);
    return Gamma(random, shape + 1) * boost;
  }
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = Normal(random);
    const double cube_root = 1 + c * x;
    if (cube_root <= 0) continue;
    const double v = cube_root * cube_root * cube_root;
    if (std::log(1 - Uniform(random)) < x * x / 2 + d - d * v + d * std::log(v)) return d * v;
  }
}

}  // namespace conclave::loadtest
