#include "loadtest/arrivals.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace conclave::loadtest {
namespace {

std::vector<double> Moments(double rate, uint64_t seed, int count) {
  PoissonArrivals arrivals(rate, seed);
  std::vector<double> moments;
  for (int i = 0; i < count; ++i) {
    moments.push_back(std::chrono::duration<double>(arrivals.Next()).count());
  }
  return moments;
}

TEST(PoissonArrivals, SameSeedSameMomentsOtherSeedOthers) {
  EXPECT_EQ(Moments(50, 1, 100), Moments(50, 1, 100));
  EXPECT_NE(Moments(50, 1, 100), Moments(50, 2, 100));
}

TEST(PoissonArrivals, StayTellableHoweverRareTheyAre) {
  for (const double moment : Moments(1e-300, 1, 3)) EXPECT_EQ(moment, 1e9);
}

// Gaps of a Poisson process: mean 1/rate, deviation equal to the mean, and the share longer than
// the mean is 1/e. The bounds are five deviations of each estimate.
TEST(PoissonArrivals, GapsAreExponential) {
  constexpr int kCount = 40'000;
  constexpr double kRate = 200;
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(seed);
    const std::vector<double> moments = Moments(kRate, seed, kCount);
    double last = 0, sum = 0, squares = 0, longer = 0;
    for (const double moment : moments) {
      const double gap = (moment - last) * kRate;
      ASSERT_GE(gap, 0);
      last = moment;
      sum += gap;
      squares += gap * gap;
      longer += gap > 1;
    }
    const double mean = sum / kCount;
    EXPECT_NEAR(mean, 1, 5 / std::sqrt(kCount));
    EXPECT_NEAR(squares / kCount - mean * mean, 1, 5 * std::sqrt(8.0 / kCount));
    EXPECT_NEAR(longer / kCount, std::exp(-1), 5 * 0.4823 / std::sqrt(kCount));
  }
}

// Counts in disjoint seconds: mean and variance equal the rate (index of dispersion 1).
TEST(PoissonArrivals, CountsOfSecondsAreAsSpreadAsTheirMean) {
  constexpr double kRate = 20;
  constexpr int kSeconds = 2000;
  std::vector<int> counts(kSeconds, 0);
  for (const double moment : Moments(kRate, 9, static_cast<int>(kRate * kSeconds * 1.1))) {
    if (moment < kSeconds) ++counts[static_cast<size_t>(moment)];
  }
  double sum = 0, squares = 0;
  for (const int count : counts) {
    sum += count;
    squares += static_cast<double>(count) * count;
  }
  const double mean = sum / kSeconds;
  const double variance = squares / kSeconds - mean * mean;
  EXPECT_NEAR(mean, kRate, 5 * std::sqrt(kRate / kSeconds));
  EXPECT_NEAR(variance / mean, 1, 5 * std::sqrt(2.0 / kSeconds));
}

TEST(Uniform, StaysInItsInterval) {
  std::mt19937_64 random(3);
  double sum = 0;
  for (int i = 0; i < 10'000; ++i) {
    const double value = Uniform(random);
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
  }
  EXPECT_NEAR(sum / 10'000, 0.5, 0.015);
}

}  // namespace
}  // namespace conclave::loadtest
