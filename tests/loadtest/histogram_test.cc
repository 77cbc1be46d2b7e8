#include "loadtest/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace conclave::loadtest {
namespace {

using Nanos = Histogram::Nanos;

// The definition, on all the values.
int64_t Exact(std::vector<int64_t> values, double percent) {
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(percent / 100 * static_cast<double>(values.size()) - 1e-6);
  return values[static_cast<size_t>(std::max(1.0, rank)) - 1];
}

TEST(Histogram, PercentilesAreWithinOnePercentOfExactOnes) {
  std::mt19937_64 random(11);
  std::lognormal_distribution<double> spread(14, 4);  // microseconds to minutes
  Histogram histogram;
  std::vector<int64_t> values;
  for (int i = 0; i < 20'000; ++i) {
    values.push_back(std::min(static_cast<int64_t>(spread(random)), Histogram::kLongest.count()));
    histogram.Record(Nanos(values.back()));
  }
  for (const double percent : {0.0, 1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0}) {
    const auto exact = static_cast<double>(Exact(values, percent));
    const auto got = static_cast<double>(histogram.Percentile(percent).count());
    EXPECT_NEAR(got, exact, exact * 0.005) << percent;
  }
}

TEST(Histogram, EveryBucketBoundIsWithinItsError) {
  for (int shift = 0; shift < 46; ++shift) {
    for (const int64_t offset : {-1, 0, 1}) {
      const int64_t value = (int64_t{1} << shift) + offset;
      if (value < 0 || value > Histogram::kLongest.count()) continue;
      Histogram histogram;
      histogram.Record(Nanos(value));
      histogram.Record(Histogram::kLongest);  // so that no clamping to the maximum helps
      histogram.Record(Nanos(0));
      const auto got = static_cast<double>(histogram.Percentile(50).count());
      EXPECT_NEAR(got, static_cast<double>(value), static_cast<double>(value) / 200) << value;
    }
  }
}

TEST(Histogram, SmallValuesAndExtremesAreExact) {
  Histogram histogram;
  for (const int64_t value : {3, 200, 255, 7'000'001}) histogram.Record(Nanos(value));
  EXPECT_EQ(histogram.Percentile(25), Nanos(3));
  EXPECT_EQ(histogram.Percentile(50), Nanos(200));
  EXPECT_EQ(histogram.Percentile(75), Nanos(255));
  EXPECT_EQ(histogram.min(), Nanos(3));
  EXPECT_EQ(histogram.max(), Nanos(7'000'001));
  EXPECT_EQ(histogram.Percentile(0), Nanos(3));
  EXPECT_LE(histogram.Percentile(100), Nanos(7'000'001));
  EXPECT_EQ(histogram.mean(), Nanos((3 + 200 + 255 + 7'000'001 + 2) / 4));
}

// What HdrHistogram promises of its two significant digits (1/100), and better: a value is told as
// the middle of a bucket that is at most 1/128 of it wide, whatever its size.
TEST(Histogram, AValueIsNeverFurtherOffThanHalfABucket) {
  std::mt19937_64 random(17);
  for (int bits = 1; bits <= 46; ++bits) {
    for (int i = 0; i < 50; ++i) {
      const auto value = static_cast<int64_t>((random() >> 18 | uint64_t{1} << 45) >> (46 - bits));
      Histogram histogram;
      histogram.Record(Nanos(0));
      histogram.Record(Nanos(value));
      histogram.Record(Histogram::kLongest);
      const auto off = std::abs(histogram.Percentile(50).count() - value);
      EXPECT_LE(static_cast<double>(off), static_cast<double>(value) / 256) << value;
    }
  }
}

TEST(Histogram, PercentilesNeverFall) {
  std::mt19937_64 random(18);
  Histogram histogram;
  for (int i = 0; i < 1000; ++i) histogram.Record(Nanos(static_cast<int64_t>(random() >> 24)));
  Nanos last{0};
  for (int percent = 0; percent <= 100; ++percent) {
    EXPECT_GE(histogram.Percentile(percent), last);
    last = histogram.Percentile(percent);
  }
}

TEST(Histogram, AnEmptyOneAddsNothing) {
  Histogram histogram;
  histogram.Add(Histogram());
  EXPECT_EQ(histogram.count(), 0U);
  histogram.Record(Nanos(5));
  histogram.Add(Histogram());
  EXPECT_EQ(histogram.min(), Nanos(5));
  EXPECT_EQ(histogram.Percentile(100), Nanos(5));
}

TEST(Histogram, EmptyIsZeroEverywhere) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0U);
  EXPECT_EQ(histogram.min(), Nanos(0));
  EXPECT_EQ(histogram.max(), Nanos(0));
  EXPECT_EQ(histogram.mean(), Nanos(0));
  EXPECT_EQ(histogram.Percentile(99), Nanos(0));
}

TEST(Histogram, ValuesOutOfRangeCountAtTheEnds) {
  Histogram histogram;
  histogram.Record(Nanos(-5));
  histogram.Record(Histogram::kLongest + Nanos(1));
  EXPECT_EQ(histogram.count(), 2U);
  EXPECT_EQ(histogram.min(), Nanos(0));
  EXPECT_EQ(histogram.max(), Histogram::kLongest);
}

TEST(Histogram, AddedHistogramsAreOneOfAllValues) {
  std::mt19937_64 random(5);
  Histogram parts[2];
  Histogram whole;
  for (int i = 0; i < 1000; ++i) {
    const Nanos value(static_cast<int64_t>(random() >> 30));
    parts[i % 2].Record(value);
    whole.Record(value);
  }
  parts[0].Add(parts[1]);
  EXPECT_EQ(parts[0].count(), whole.count());
  EXPECT_EQ(parts[0].Percentile(99), whole.Percentile(99));
  EXPECT_EQ(parts[0].max(), whole.max());
  EXPECT_EQ(parts[0].min(), whole.min());
  EXPECT_NEAR(static_cast<double>(parts[0].mean().count()),
              static_cast<double>(whole.mean().count()), 1);
}

}  // namespace
}  // namespace conclave::loadtest
