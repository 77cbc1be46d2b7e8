#include "loadtest/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#include "scheduler/check.h"

namespace conclave::loadtest {
namespace {

// Values below 2^8 have a bucket each; above, every power of two has 2^7 of equal width.
constexpr int kPrecisionBits = 7;
constexpr int kLongestBits = 46;
constexpr size_t kPerPower = size_t{1} << kPrecisionBits;
constexpr size_t kBuckets = kPerPower * (kLongestBits - kPrecisionBits + 1);

size_t BucketOf(uint64_t value) {
  const int shift = std::max(0, static_cast<int>(std::bit_width(value)) - kPrecisionBits - 1);
  return kPerPower * static_cast<size_t>(shift) + static_cast<size_t>(value >> shift);
}

int64_t MiddleOf(size_t bucket) {
  if (bucket < 2 * kPerPower) return static_cast<int64_t>(bucket);
  const size_t shift = bucket / kPerPower - 1;
  const uint64_t low = static_cast<uint64_t>(bucket - kPerPower * shift) << shift;
  return static_cast<int64_t>(low + (uint64_t{1} << shift) / 2);
}

}  // namespace

void Histogram::Record(Nanos value) {
  value = std::clamp(value, Nanos(0), kLongest);
  buckets_.resize(kBuckets);
  ++buckets_[BucketOf(static_cast<uint64_t>(value.count()))];
  ++count_;
  sum_ += static_cast<double>(value.count());
  min_ = std::min(min_, value);
  max_ = std::max(max_, value);
}

void Histogram::Add(const Histogram& other) {
  if (other.count_ == 0) return;
  buckets_.resize(kBuckets);
  for (size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

Histogram::Nanos Histogram::mean() const {
  if (count_ == 0) return Nanos(0);
  return Nanos(std::llround(sum_ / static_cast<double>(count_)));
}

Histogram::Nanos Histogram::Percentile(double percent) const {
  CONCLAVE_CHECK(percent >= 0 && percent <= 100);
  if (count_ == 0) return Nanos(0);
  const double exact_rank = percent / 100 * static_cast<double>(count_);
  // 99.9 % of 1000 is 999.0000000000001 in doubles; the tolerance keeps it the 999th.
  const auto rank = std::max<uint64_t>(1, static_cast<uint64_t>(std::ceil(exact_rank - 1e-6)));
  uint64_t seen = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    seen += buckets_[i];
    if (seen >= rank) return std::clamp(Nanos(MiddleOf(i)), min_, max_);
  }
  return max_;
}

}  // namespace conclave::loadtest
