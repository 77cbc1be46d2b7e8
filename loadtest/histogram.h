#pragma once
// Durations counted in buckets at most 1/128 of their value wide (the log-linear layout of
// HdrHistogram): a percentile is off by at most 0.4 %, whatever the range. 40 KiB from the first
// value on, none before. One thread at a time.

#include <chrono>
#include <cstdint>
#include <vector>

namespace conclave::loadtest {

class Histogram {
 public:
  using Nanos = std::chrono::nanoseconds;

  // About 19 hours; longer counts as this long. Less than nothing counts as nothing.
  static constexpr Nanos kLongest{(int64_t{1} << 46) - 1};

  void Record(Nanos value);
  void Add(const Histogram& other);

  uint64_t count() const { return count_; }
  // Exact. Zero when nothing was recorded, as is a percentile.
  Nanos min() const { return count_ == 0 ? Nanos(0) : min_; }
  Nanos max() const { return max_; }
  Nanos mean() const;

  // The least value that at least `percent` % of the recorded ones do not exceed; percent in
  // [0, 100].
  Nanos Percentile(double percent) const;

 private:
  std::vector<uint64_t> buckets_;
  uint64_t count_ = 0;
  double sum_ = 0;  // nanoseconds
  Nanos min_ = kLongest;
  Nanos max_{0};
};

}  // namespace conclave::loadtest
