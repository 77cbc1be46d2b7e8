#include "services/completions.h"

#include <utility>

#include "scheduler/check.h"

namespace conclave::services {

Completions::Completions(std::vector<std::shared_ptr<LiveRequest>> completions)
    : completions_(std::move(completions)), last_taken_(completions_.size() - 1) {
  CONCLAVE_CHECK(!completions_.empty());
}

std::optional<Completions::Part> Completions::Take() {
  completions_[last_taken_]->Sent();
  for (size_t turn = 1; turn <= completions_.size() && !failed_; ++turn) {
    const size_t index = (last_taken_ + turn) % completions_.size();
    std::optional<LiveRequest::Output> output = completions_[index]->Take();
    if (output) return PartOf(index, *std::move(output));
  }
  return std::nullopt;
}

Completions::Part Completions::PartOf(size_t index, LiveRequest::Output output) {
  last_taken_ = index;
  if (output.last) ++ended_;
  failed_ = output.last && !output.status.ok();
  if (failed_) Cancel();
  output.last = failed_ || ended_ == completions_.size();
  return {*completions_[index], static_cast<uint32_t>(index), std::move(output)};
}

void Completions::Cancel() {
  for (const auto& completion : completions_) completion->Cancel();
}

}  // namespace conclave::services
