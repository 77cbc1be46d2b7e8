#pragma once
// A distribution that is observed by any thread, with buckets of vLLM 0.10
// (vllm/v1/metrics/loggers.py), so that its dashboards' quantiles mean the same.

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/types.h"
#include "services/metrics.h"

namespace conclave::services {

using Bounds = std::vector<double>;

Bounds FirstTokenBounds();  // seconds
Bounds InterTokenBounds();
Bounds RequestBounds();
Bounds ResumeBounds();  // ours
Bounds TokenBounds();   // tokens

// Counts per bucket; readers may see an observation in one of counts and sum before the other.
class Histogram {
 public:
  explicit Histogram(Bounds bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

  void Observe(double value);
  void Observe(scheduler::Micros time) { Observe(static_cast<double>(time.count()) * 1e-6); }
  void Write(MetricsWriter& writer, const std::string& name, const std::string& help,
             const Labels& labels) const;

 private:
  const Bounds bounds_;
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<double> sum_ = 0;
};

}  // namespace conclave::services
