#pragma once
// Randomness that is the same on every machine and standard library: a generator keyed by what it
// is for, and the few distributions a load needs. Nothing is shared: the n-th request's draws do
// not depend on how many others were made.

#include <cstdint>

namespace conclave::loadtest {

// SplitMix64 (Steele, Lea, Flood 2014).
class Random {
 public:
  // What the draws are for, so that equal seeds and indices of different purposes are independent.
  enum class Purpose : uint64_t {
    kArrivals = 1,
    kSampling,
    kCancel,
    kPromptLength,
    kOutputLength,
    kAdapter,
    kOwnTokens,
    kBlockTokens,
    kSlowReader,
  };

  Random(uint64_t seed, Purpose purpose, uint64_t index = 0);

  uint64_t operator()();

 private:
  uint64_t state_;
};

double Uniform(Random& random);                  // [0, 1)
uint32_t Below(Random& random, uint32_t bound);  // [0, bound); bound > 0
double Exponential(Random& random);              // mean 1
double Normal(Random& random);                   // mean 0, variance 1
double Gamma(Random& random, double shape);      // mean `shape`, scale 1; shape > 0

}  // namespace conclave::loadtest
