#pragma once
// How values were spread: counts by upper bounds, and their sum. One thread, or one lock.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace conclave::worker {

struct Histogram {
  explicit Histogram(std::vector<double> upper_bounds)
      : bounds(std::move(upper_bounds)), counts(bounds.size() + 1) {}

  void Add(double value) {
    const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin();
    ++counts[static_cast<size_t>(bucket)];
    sum += value;
  }

  std::vector<double> bounds;    // ascending, each included in its bucket
  std::vector<uint64_t> counts;  // per bucket; the last: above all bounds
  double sum = 0;
};

}  // namespace conclave::worker
