// Adapters in a step: which versions there are from now on, and what (adapter, layer, slot) means
// to each row. Everything here runs on the engine thread, called by decode_step.cc.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/engine_impl.h"

namespace conclave::worker {

using scheduler::FinishReason;
using scheduler::Placement;

absl::Status Engine::Impl::ServedNoMore(const std::string& adapter) {
  return absl::AbortedError(
      absl::StrCat("adapter version ", adapter, " is served no more; ask again"));
}

// The placement this step and the next ones go by. Indexes may mean other versions than before, so
// every sequence looks its own up again.
void Engine::Impl::FollowAdapters(const Placement& adopted) {
  experts_->SetAdapters(adopted.adapters);
  for (auto& [id, sequence] : live_) {
    const std::string& version = sequence.request.adapter;
    if (version.empty() || event_index_.contains(id)) continue;
    const std::optional<AdapterIndex> index = experts_->Find(version);
    const std::string lacks = host_->WhyLacks(version);
    if (index && lacks.empty()) {
      sequence.adapter = *index;
      continue;
    }
    planner_->Drop(id);
    ++step_stats_.ended_error;
    if (index) {
      EndLacking(id, lacks);
    } else {
      End(id, ServedNoMore(version), FinishReason::kStop);
    }
  }
}

void Engine::Impl::EndLacking(scheduler::SequenceId id, const std::string& why) {
  End(id,
      absl::UnavailableError(absl::StrCat("adapter version ", Live(id).request.adapter,
                                          " cannot be served at present: ", why)),
      FinishReason::kStop);
  EventOf(id).end->lacks_adapter = true;
}

// An owner said so of rows of the step, which is planned again without the version's sequences.
void Engine::Impl::LeaveLacking(const scheduler::StepPlan& plan,
                                const ExpertHost::Lacking& lacking) {
  for (auto& [id, sequence] : live_) {
    const auto event = event_index_.find(id);
    const bool ended = event != event_index_.end() && events_[event->second].second.end;
    if (ended || sequence.request.adapter != lacking.digest) continue;
    planner_->Drop(id);
    ++step_stats_.ended_error;
    EndLacking(id, lacking.why);
  }
  Abandon(plan);
}

std::vector<std::string> Engine::Impl::AdaptersInUse() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> digests;
  for (const auto& [digest, sequences] : in_use_) digests.push_back(digest);
  return digests;
}

// (adapter, layer, slot) -> expert id, sequence by sequence: rows of one sequence share an adapter.
void Engine::Impl::ResolveExperts(int32_t moe_layer) {
  Batch& b = *batch_;
  const auto top_k = static_cast<size_t>(model_->spec.gate.top_k);
  for (size_t row = 0; row < b.place.size();) {
    const int32_t sequence = b.place[row].sequence;
    size_t end = row;
    while (end < b.place.size() && b.place[end].sequence == sequence) ++end;
    const size_t first = row * top_k, count = (end - row) * top_k;
    const AdapterIndex adapter = planned_[static_cast<size_t>(sequence)]->adapter;
    const std::span<scheduler::ExpertId> experts(b.experts.data() + first, count);
    experts_->Resolve(adapter, moe_layer, {b.slots.data() + first, count}, experts);
    if (adapter != ExpertTable::kBase) CountTuned(experts);
    row = end;
  }
}

void Engine::Impl::CountTuned(std::span<const scheduler::ExpertId> experts) {
  const auto base = static_cast<scheduler::ExpertId>(moe_layers_ * model_->spec.gate.slots);
  step_stats_.adapter_routes += experts.size();
  step_stats_.tuned_routes += static_cast<uint64_t>(
      std::count_if(experts.begin(), experts.end(), [&](auto expert) { return expert >= base; }));
}

// The shared expert of each row's adapter: the base's own for most. shared [rows, dim].
void Engine::Impl::RunShared(int32_t layer, int32_t moe_layer, ConstRows normed, Rows shared) {
  FindShared(moe_layer, model_->layers[static_cast<size_t>(layer)].shared);
  shared_work_.clear();
  for (size_t i = 0; i < shared_groups_; ++i) {
    const SharedRows& group = shared_rows_[i];
    shared_work_.push_back({group.weights, group.rows, group.rows});
  }
  device_->Experts(normed, shared_work_, shared);
}

// Rows by whose shared expert is theirs.
void Engine::Impl::FindShared(int32_t moe_layer, const FfnWeights& base) {
  shared_groups_ = 0;
  const auto group_of = [&](const FfnWeights* weights) -> std::vector<int32_t>& {
    for (size_t i = 0; i < shared_groups_; ++i) {
      if (shared_rows_[i].weights == weights) return shared_rows_[i].rows;
    }
    if (shared_groups_ == shared_rows_.size()) shared_rows_.emplace_back();
    SharedRows& group = shared_rows_[shared_groups_++];
    group.weights = weights;
    group.rows.clear();
    return group.rows;
  };
  const std::vector<RowPlace>& place = batch_->place;
  for (size_t row = 0; row < place.size();) {
    const int32_t sequence = place[row].sequence;
    const AdapterIndex adapter = planned_[static_cast<size_t>(sequence)]->adapter;
    const std::optional<scheduler::ExpertId> own = experts_->Shared(adapter, moe_layer);
    std::vector<int32_t>& rows = group_of(own ? &host_->SharedWeights(*own) : &base);
    for (; row < place.size() && place[row].sequence == sequence; ++row)
      rows.push_back(static_cast<int32_t>(row));
  }
}

}  // namespace conclave::worker
