// What a step tells: events by sequence as they arise, handed to their links at its end, and the
// counters. Everything here runs on the engine thread, called by decode_step.cc.

#include <algorithm>
#include <utility>

#include "scheduler/check.h"
#include "worker/engine_impl.h"

namespace conclave::worker {

using scheduler::FinishReason;
using scheduler::SequenceId;

LiveSequence& Engine::Impl::Live(SequenceId id) {
  const auto it = live_.find(id);
  CONCLAVE_CHECK(it != live_.end());
  return it->second;
}

SequenceEvent& Engine::Impl::EventOf(SequenceId id) {
  const auto [it, begun] = event_index_.emplace(id, events_.size());
  if (begun) {
    events_.emplace_back(id, SequenceEvent{});
    events_.back().second.id = Live(id).request.id;
  }
  return events_[it->second].second;
}

void Engine::Impl::End(SequenceId id, absl::Status status, FinishReason reason) {
  if (status.ok()) {
    ++(reason == FinishReason::kStop     ? step_stats_.ended_stop
       : reason == FinishReason::kLength ? step_stats_.ended_length
                                         : step_stats_.ended_scored);
  }
  EventOf(id).end = SequenceEnd{reason, std::move(status)};
}

// Hands this step's events to their links, forgets the sequences that ended and makes the counters
// visible.
void Engine::Impl::Publish(double seconds) {
  std::vector<std::pair<std::shared_ptr<Link>, std::vector<SequenceEvent>>> by_link;
  std::function<void()> on_room;
  {
    absl::MutexLock lock(&mutex_);
    const size_t sequences = ids_.size();
    const int32_t paused = stats_.planner.paused;
    for (auto& [id, event] : events_) {
      LiveSequence& sequence = Live(id);
      const bool ended = event.end.has_value();
      if (ended) {
        ids_.erase({sequence.submitted_by, sequence.request.id});
        const auto used = in_use_.find(sequence.request.adapter);
        if (used != in_use_.end() && --used->second == 0) in_use_.erase(used);
      }
      if (sequence.link != nullptr) {
        auto to = std::find_if(by_link.begin(), by_link.end(),
                               [&](const auto& entry) { return entry.first == sequence.link; });
        if (to == by_link.end()) to = by_link.insert(by_link.end(), {sequence.link, {}});
        to->second.push_back(std::move(event));
      }
      if (!ended) continue;
      orphans_.Remove(id);
      live_.erase(id);
    }
    if (live_.empty()) stuck_ = absl::OkStatus();  // nobody is left who waits
    orphan_names_ = orphans_.Names();
    AddStats(seconds);
    if (ids_.size() < sequences || stats_.planner.paused > paused) on_room = on_room_;
    publishing_ = !by_link.empty() || on_room != nullptr;
  }
  events_.clear();
  event_index_.clear();
  if (by_link.empty() && on_room == nullptr) return;
  for (auto& [link, events] : by_link) link->OnStep(std::move(events));
  if (on_room != nullptr) on_room();
  absl::MutexLock lock(&mutex_);
  publishing_ = false;
}

void Engine::Impl::AddStats(double seconds) {
  stats_.planner = planner_->stats();
  stats_.lacks = std::string(stuck_.message());
  if (!planned_.empty()) {
    ++stats_.steps;
    stats_.step_seconds.Add(seconds);
    stats_.step_tokens.Add(batch_->rows());
  }
  stats_.prompt_tokens += step_stats_.prompt_tokens;
  stats_.generated_tokens += step_stats_.generated_tokens;
  stats_.recomputed_tokens += step_stats_.recomputed_tokens;
  stats_.speculated_tokens += step_stats_.speculated_tokens;
  stats_.speculated_accepted += step_stats_.speculated_accepted;
  stats_.prefix_queries += step_stats_.prefix_queries;
  stats_.prefix_hits += step_stats_.prefix_hits;
  stats_.steps_redone += step_stats_.steps_redone;
  stats_.orphans_taken_over += step_stats_.orphans_taken_over;
  stats_.adapter_routes += step_stats_.adapter_routes;
  stats_.tuned_routes += step_stats_.tuned_routes;
  stats_.ended_stop += step_stats_.ended_stop;
  stats_.ended_length += step_stats_.ended_length;
  stats_.ended_scored += step_stats_.ended_scored;
  stats_.ended_cancelled += step_stats_.ended_cancelled;
  stats_.ended_deadline += step_stats_.ended_deadline;
  stats_.ended_error += step_stats_.ended_error;
  for (size_t i = 0; i < step_expert_tokens_.size(); ++i)
    stats_.expert_tokens[i] += step_expert_tokens_[i];
  step_stats_ = {};
  std::fill(step_expert_tokens_.begin(), step_expert_tokens_.end(), 0);
  planned_.clear();
}

}  // namespace conclave::worker
