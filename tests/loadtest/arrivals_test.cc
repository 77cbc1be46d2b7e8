#include "loadtest/arrivals.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace conclave::loadtest {
namespace {

std::vector<double> Take(Arrivals& arrivals, int count) {
  std::vector<double> moments;
  for (int i = 0; i < count; ++i) {
    const auto next = arrivals.Next();
    if (!next) break;
    moments.push_back(std::chrono::duration<double>(*next).count());
  }
  return moments;
}

std::vector<double> Moments(double rate, uint64_t seed, int count, double variation = 1) {
  RenewalArrivals arrivals(RateCurve::Constant(rate), variation, seed);
  return Take(arrivals, count);
}

TEST(PoissonArrivals, SameSeedSameMomentsOtherSeedOthers) {
  EXPECT_EQ(Moments(50, 1, 100), Moments(50, 1, 100));
  EXPECT_NE(Moments(50, 1, 100), Moments(50, 2, 100));
}

TEST(PoissonArrivals, EndWhereATimeCouldNotBeToldAnyMore) {
  EXPECT_TRUE(Moments(1e-300, 1, 3).empty());
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

// Gamma gaps of mean 1 and variance cv^2; excess kurtosis 6 cv^2 widens the variance's bound.
TEST(RenewalArrivals, GapsHaveTheVariationAskedFor) {
  constexpr int kCount = 40'000;
  for (const double variation : {0.25, 0.5, 2.0, 4.0}) {
    SCOPED_TRACE(variation);
    double last = 0, sum = 0, squares = 0;
    for (const double moment : Moments(100, 5, kCount, variation)) {
      const double gap = (moment - last) * 100;
      ASSERT_GE(gap, 0);
      last = moment;
      sum += gap;
      squares += gap * gap;
    }
    const double mean = sum / kCount;
    const double square = variation * variation;
    EXPECT_NEAR(mean, 1, 5 * variation / std::sqrt(kCount));
    EXPECT_NEAR(squares / kCount - mean * mean, square,
                5 * square * std::sqrt((2 + 6 * square) / kCount));
  }
}

TEST(RenewalArrivals, NoVariationIsAnEvenBeat) {
  EXPECT_EQ(Moments(4, 1, 4, 0), (std::vector<double>{0.25, 0.5, 0.75, 1}));
}

TEST(RenewalArrivals, TheMostVariationStaysOrdered) {
  double last = 0;
  for (const double moment : Moments(1000, 2, 10'000, RenewalArrivals::kMaxVariation)) {
    ASSERT_GE(moment, last);
    last = moment;
  }
}

// An even beat shows the curve itself: the n-th arrival is when n were to be expected.
TEST(RateCurve, ARampHasItsRateAtEveryMoment) {
  RenewalArrivals up(RateCurve({{10, 0, 20}}), 0, 1);  // t^2 arrivals by t
  const std::vector<double> rising = Take(up, 1000);
  ASSERT_EQ(rising.size(), 99U);  // the 100th would be due at the very end
  for (size_t i = 0; i < rising.size(); ++i) {
    EXPECT_NEAR(rising[i], std::sqrt(static_cast<double>(i + 1)), 1e-8);
  }
  RenewalArrivals down(RateCurve({{10, 20, 0}}), 0, 1);
  const std::vector<double> falling = Take(down, 1000);
  ASSERT_EQ(falling.size(), 99U);
  for (size_t i = 0; i < falling.size(); ++i) {
    EXPECT_NEAR(10 - falling[i], std::sqrt(static_cast<double>(99 - i)), 1e-6);
  }
}

TEST(RateCurve, PiecesFollowEachOtherAndSilentOnesArePassed) {
  RateCurve curve({{2, 5, 5}, {3, 0, 0}, {1, 10, 10}});
  EXPECT_EQ(curve.TimeOf(0), 0);
  EXPECT_EQ(curve.TimeOf(5), 1);
  EXPECT_EQ(curve.TimeOf(10), 5);  // not at the end of the first piece, which does not have it
  EXPECT_EQ(curve.TimeOf(15), 5.5);
  EXPECT_EQ(curve.TimeOf(20), std::nullopt);
  EXPECT_EQ(curve.TimeOf(21), std::nullopt);
}

TEST(TraceArrivals, GoBySpeedAndEnd) {
  const std::vector<TraceRequest> trace = {{.at = std::chrono::seconds(0)},
                                           {.at = std::chrono::seconds(3)},
                                           {.at = std::chrono::seconds(3)}};
  TraceArrivals arrivals(trace, 2);
  EXPECT_EQ(Take(arrivals, 9), (std::vector<double>{0, 1.5, 1.5}));
}

TEST(TraceArrivals, ASlowestReplayStaysTellable) {
  const std::vector<TraceRequest> trace = {{.at = std::chrono::hours(24 * 366)}};
  TraceArrivals arrivals(trace, 1e-3);
  EXPECT_EQ(Take(arrivals, 1), (std::vector<double>{RateCurve::kNever}));
}

TEST(Random, PurposesAndIndicesAreIndependent) {
  const auto first = [](uint64_t seed, Random::Purpose purpose, uint64_t index) {
    return Random(seed, purpose, index)();
  };
  EXPECT_EQ(first(1, Random::Purpose::kCancel, 2), first(1, Random::Purpose::kCancel, 2));
  EXPECT_NE(first(1, Random::Purpose::kCancel, 2), first(1, Random::Purpose::kCancel, 3));
  EXPECT_NE(first(1, Random::Purpose::kCancel, 2), first(1, Random::Purpose::kAdapter, 2));
  EXPECT_NE(first(1, Random::Purpose::kCancel, 2), first(2, Random::Purpose::kCancel, 2));
}

TEST(Random, NormalHasItsMoments) {
  constexpr int kCount = 40'000;
  Random random(4, Random::Purpose::kArrivals);
  double sum = 0, squares = 0, beyond = 0;
  for (int i = 0; i < kCount; ++i) {
    const double value = Normal(random);
    sum += value;
    squares += value * value;
    beyond += std::abs(value) > 1.96;
  }
  EXPECT_NEAR(sum / kCount, 0, 5 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 1, 5 * std::sqrt(2.0 / kCount));
  EXPECT_NEAR(beyond / kCount, 0.05, 5 * 0.218 / std::sqrt(kCount));
}

TEST(Random, BelowReachesAllAndNoMore) {
  Random random(4, Random::Purpose::kArrivals);
  std::vector<int> seen(3, 0);
  for (int i = 0; i < 3000; ++i) ++seen.at(Below(random, 3));
  for (const int count : seen) EXPECT_NEAR(count, 1000, 5 * std::sqrt(667));
  EXPECT_EQ(Below(random, 1), 0U);
}

TEST(Uniform, StaysInItsInterval) {
  Random random(3, Random::Purpose::kArrivals);
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
