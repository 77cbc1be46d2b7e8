#include "worker/experts/local_exchange.h"

#include <algorithm>
#include <utility>

#include "scheduler/check.h"

namespace conclave::worker {

LocalExchange::LocalExchange(std::vector<const FfnWeights*> experts, size_t max_routes,
                             Device& device)
    : experts_(std::move(experts)), device_(device), count_(experts_.size()) {
  touched_.reserve(experts_.size());
  inputs_.resize(max_routes);
  outputs_.resize(max_routes);
  work_.reserve(experts_.size());
}

absl::Status LocalExchange::Dispatch(int32_t /*layer*/, ConstRows x,
                                     std::span<const scheduler::ExpertId> experts, int32_t top_k) {
  CONCLAVE_CHECK(experts.size() == static_cast<size_t>(x.rows * top_k) &&
                 experts.size() <= inputs_.size());
  x_ = x;
  touched_.clear();
  work_.clear();
  for (const scheduler::ExpertId id : experts) {
    if (id >= experts_.size() || experts_[id] == nullptr) {
      return absl::UnavailableError("no live owner for expert " + std::to_string(id));
    }
  }
  for (const scheduler::ExpertId id : experts) {
    if (count_[id]++ == 0) touched_.push_back(static_cast<int32_t>(id));
  }
  std::sort(touched_.begin(), touched_.end());

  size_t start = 0;
  for (const int32_t id : touched_) {
    const size_t rows = static_cast<size_t>(
        std::exchange(count_[static_cast<size_t>(id)], static_cast<int32_t>(start)));
    work_.push_back({experts_[static_cast<size_t>(id)],
                     {inputs_.data() + start, rows},
                     {outputs_.data() + start, rows}});
    start += rows;
  }
  for (size_t route = 0; route < experts.size(); ++route) {
    const size_t at = static_cast<size_t>(count_[experts[route]]++);
    inputs_[at] = static_cast<int32_t>(route) / top_k;
    outputs_[at] = static_cast<int32_t>(route);
  }
  for (const int32_t id : touched_) count_[static_cast<size_t>(id)] = 0;
  return absl::OkStatus();
}

absl::Status LocalExchange::Combine(Rows outputs) {
  device_.Experts(x_, work_, outputs);
  return absl::OkStatus();
}

}  // namespace conclave::worker
