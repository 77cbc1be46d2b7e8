#pragma once
// What the router counts for each adapter. Names come and go with adapters, series must not grow
// with them: a limited number of adapters has series of its own, the others share one. Any thread.

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "router/adapter_names.h"
#include "router/admission.h"
#include "services/histogram.h"
#include "services/metrics.h"

namespace conclave::services {

class AdapterMetrics {
 public:
  static constexpr size_t kNamesMax = 64;
  // Not names of adapters: those have no parentheses.
  static constexpr char kBase[] = "(base)";
  static constexpr char kOther[] = "(other)";
  static constexpr char kAuto[] = "(auto)";  // requests whose adapter is being chosen

  struct Series {
    Series();
    Histogram first_token_seconds;
    Histogram request_seconds;  // of complete ones
    std::atomic<uint64_t> prompt_tokens = 0, generated_tokens = 0;
    std::atomic<uint64_t> auto_choices = 0;  // requests for which it was chosen
  };

  AdapterMetrics() : other_(std::make_shared<Series>()) {}

  // For an adapter's requests; empty: the base model's. Never null.
  std::shared_ptr<Series> Of(const std::string& adapter);
  // Those that are there now: others lose their series when no request holds them any more.
  void SetAdapters(const std::vector<router::AdapterView>& adapters);

  // Nothing where there never was an adapter. `requests`: as Admission::adapters.
  void Write(MetricsWriter& writer, const std::string& model_name,
             const std::unordered_map<std::string, router::Admission::Stats>& requests) const;

 private:
  using Counts = std::map<std::string, router::Admission::Stats>;  // by label
  std::string LabelOf(const std::string& adapter) const;           // mutex_ held
  void WriteRequests(MetricsWriter& writer, const std::string& model_name,
                     const Counts& counts) const;

  mutable std::mutex mutex_;
  const std::shared_ptr<Series> other_;
  std::map<std::string, std::shared_ptr<Series>> series_;  // by adapter
  size_t adapters_ = 0;                                    // there now
};

}  // namespace conclave::services
