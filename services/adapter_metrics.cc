#include "services/adapter_metrics.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_join.h"

namespace conclave::services {
namespace {

using router::Admission;

Labels With(const std::string& adapter) { return {{"adapter_name", adapter}}; }

}  // namespace

AdapterMetrics::Series::Series()
    : first_token_seconds(FirstTokenBounds()), request_seconds(RequestBounds()) {}

std::shared_ptr<AdapterMetrics::Series> AdapterMetrics::Of(const std::string& adapter) {
  std::lock_guard lock(mutex_);
  const auto found = series_.find(adapter);
  if (found != series_.end()) return found->second;
  if (!adapter.empty() && series_.size() - series_.count("") >= kNamesMax) return other_;
  return series_[adapter] = std::make_shared<Series>();
}

void AdapterMetrics::SetAdapters(const std::vector<router::AdapterView>& adapters) {
  std::set<std::string> names;
  for (const router::AdapterView& adapter : adapters) names.insert(adapter.name);
  std::lock_guard lock(mutex_);
  adapters_ = names.size();
  std::erase_if(series_, [&](const auto& entry) {
    const bool named = entry.first.empty() || names.count(entry.first) > 0;
    return !named && entry.second.use_count() == 1;
  });
}

std::string AdapterMetrics::LabelOf(const std::string& adapter) const {
  if (adapter.empty()) return kBase;
  if (adapter == router::AdapterNames::kAuto) return kAuto;
  return series_.count(adapter) > 0 ? adapter : kOther;
}

void AdapterMetrics::Write(
    MetricsWriter& writer, const std::string& model_name,
    const std::unordered_map<std::string, Admission::Stats>& requests) const {
  std::map<std::string, std::shared_ptr<Series>> all;
  Counts counts;
  {
    std::lock_guard lock(mutex_);
    if (adapters_ == 0 && series_.size() == series_.count("")) return;
    for (const auto& [name, series] : series_) all[LabelOf(name)] = series;
    for (const auto& [name, stats] : requests) {
      Admission::Stats& sum = counts[LabelOf(name)];
      sum.preparing += stats.preparing;
      sum.waiting += stats.waiting;
      sum.running += stats.running;
    }
  }
  all[kOther] = other_;
  for (const auto& [label, series] : all) counts[label];
  WriteRequests(writer, model_name, counts);
  for (const auto& [label, series] : all) {
    series->first_token_seconds.Write(writer, "conclave_adapter_first_token_seconds",
                                      "From a request's arrival to its first token.", With(label));
  }
  for (const auto& [label, series] : all) {
    series->request_seconds.Write(writer, "conclave_adapter_request_seconds",
                                  "Of a complete request.", With(label));
  }
  for (const auto& [label, series] : all) {
    writer.Counter("conclave_adapter_prompt_tokens_total", "Of requests that had a token.",
                   With(label), static_cast<double>(series->prompt_tokens.load()));
  }
  for (const auto& [label, series] : all) {
    writer.Counter("conclave_adapter_auto_choices_total",
                   "Requests for auto that it was chosen for; the base model's: none was.",
                   With(label), static_cast<double>(series->auto_choices.load()));
  }
  for (const auto& [label, series] : all) {
    writer.Counter("conclave_adapter_generated_tokens_total", "That workers brought.", With(label),
                   static_cast<double>(series->generated_tokens.load()));
  }
}

void AdapterMetrics::WriteRequests(MetricsWriter& writer, const std::string& model_name,
                                   const Counts& counts) const {
  std::vector<std::string> waiting, running;
  for (const auto& [label, stats] : counts) {
    const int32_t waits = stats.preparing + stats.waiting;
    if (waits > 0 && label != kBase) waiting.push_back(label);
    if (stats.running > 0 && label != kBase) running.push_back(label);
    writer.Gauge("conclave_adapter_requests_waiting", "Requests that no worker has yet.",
                 With(label), waits);
  }
  for (const auto& [label, stats] : counts) {
    writer.Gauge("conclave_adapter_requests_running", "Requests that a worker has.", With(label),
                 stats.running);
  }
  size_t adapters = 0;
  {
    std::lock_guard lock(mutex_);
    adapters = adapters_;
  }
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  writer.Gauge("vllm:lora_requests_info",
               "Adapters whose requests run or wait; the value is the time of day.",
               {{"model_name", model_name},
                {"engine", "router"},
                {"max_lora", std::to_string(adapters)},
                {"running_lora_adapters", absl::StrJoin(running, ",")},
                {"waiting_lora_adapters", absl::StrJoin(waiting, ",")}},
               now.count());
}

}  // namespace conclave::services
