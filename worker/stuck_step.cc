// A step for which an expert did not come: nothing of it is committed, and its sequences wait for a
// step that brings something. Everything here runs on the engine thread, called by decode_step.cc.

#include <algorithm>

#include "worker/engine_impl.h"

namespace conclave::worker {

using scheduler::FinishReason;
using scheduler::Micros;
using scheduler::PlannedSequence;
using scheduler::SequenceId;
using scheduler::StepPlan;

// Whether a step that the exchange could not complete is worth another try.
bool Engine::Impl::MayRedo(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsAborted(status);
}

// Each sequence of the step for as long as it may.
void Engine::Impl::Wait(const StepPlan& plan, const absl::Status& status, Micros now) {
  stuck_ = absl::UnavailableError(status.message());
  for (const PlannedSequence& p : plan.sequences) {
    std::optional<Micros>& since = Live(p.id).stuck_since;
    if (!since) since = now;
    if (now - *since < options_.expert_wait) continue;
    planner_->Drop(p.id);
    ++step_stats_.ended_error;
    EndStuck(p.id);
  }
  Abandon(plan);
}

void Engine::Impl::EndStuck(SequenceId id) {
  End(id, stuck_, FinishReason::kStop);
  EventOf(id).end->lacks_expert = true;
}

// The step brought nothing: what it began to tell is forgotten, its sequences are planned again
// after whoever was missed had a moment to come.
void Engine::Impl::Abandon(const StepPlan& plan) {
  planner_->Abandon(plan);
  event_index_.clear();
  // What is told of an orphan, or of an end, is not the step's.
  std::erase_if(events_, [](auto& event) {
    event.second.routing = {};
    return !event.second.end && event.second.replayed.empty();
  });
  for (size_t i = 0; i < events_.size(); ++i) event_index_.emplace(events_[i].first, i);
  std::fill(step_expert_tokens_.begin(), step_expert_tokens_.end(), 0);
  step_stats_.adapter_routes = step_stats_.tuned_routes = 0;
  planned_.clear();
  ++step_stats_.steps_redone;
  host_->AwaitChange(std::chrono::milliseconds(2));
}

}  // namespace conclave::worker
