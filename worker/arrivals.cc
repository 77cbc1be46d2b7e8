// What reached the engine between two steps: sequences, cancels, pauses, links that closed. A
// sequence of a closed link that has a name is kept for a while, without a step, for a sequence of
// that name to take over; any other ends. Everything here runs on the engine thread, called by
// decode_step.cc.

#include <algorithm>
#include <utility>

#include "worker/engine_impl.h"

namespace conclave::worker {

using scheduler::BatchPlanner;
using scheduler::FinishReason;
using scheduler::Micros;
using scheduler::SequenceId;
using scheduler::TokenId;

// Before the step adopts what is committed: what is committed from here on makes for another step.
void Engine::Impl::TakePlacementNews() {
  absl::MutexLock lock(&mutex_);
  placement_changed_ = false;
}

void Engine::Impl::TakeArrivalsAndCancels(Micros now) {
  std::vector<LiveSequence> arrivals;
  std::vector<SequenceId> cancels, closed;
  std::vector<Pause> pauses;
  bool draining = false;
  {
    absl::MutexLock lock(&mutex_);
    arrivals.swap(arrivals_);
    cancels.swap(cancels_);
    closed.swap(closed_);
    pauses.swap(pauses_);
    draining = draining_;
    arrival_tokens_ = 0;
    for (const LiveSequence& sequence : arrivals)
      stats_.planner.waiting_tokens += std::ssize(sequence.tokens);
  }
  // A sequence arrives after the link of its orphan has closed.
  const auto heirs =
      std::stable_partition(arrivals.begin(), arrivals.end(),
                            [](const auto& sequence) { return !sequence.request.take_over; });
  for (auto it = arrivals.begin(); it != heirs; ++it) Enqueue(std::move(*it));
  for (const SequenceId id : closed) KeepOrEnd(id, now);
  for (auto it = heirs; it != arrivals.end(); ++it) TakeOver(std::move(*it));
  for (const SequenceId id : closed) KeepOrEnd(id, now);  // heirs whose own link closed
  const Micros until = draining ? Micros::max() : now;    // who leaves keeps nothing
  for (const SequenceId id : orphans_.TakeDue(until)) planner_->Cancel(id);
  for (const SequenceId id : cancels) planner_->Cancel(id);
  for (const Pause& pause : pauses) planner_->SetPaused(pause.id, pause.paused);
}

void Engine::Impl::Enqueue(LiveSequence sequence) {
  const SequenceId id = sequence.id;
  const std::optional<AdapterIndex> adapter = experts_->Find(sequence.request.adapter);
  if (!adapter) {
    const LiveSequence& refused = live_.emplace(id, std::move(sequence)).first->second;
    return End(id, ServedNoMore(refused.request.adapter), FinishReason::kStop);
  }
  if (const std::string lacks = host_->WhyLacks(sequence.request.adapter); !lacks.empty()) {
    live_.emplace(id, std::move(sequence));
    return EndLacking(id, lacks);
  }
  sequence.adapter = *adapter;
  BatchPlanner::Sequence planned = {.id = id,
                                    .prompt_tokens = sequence.prompt_size,
                                    .max_tokens = sequence.request.max_tokens,
                                    .generated = sequence.generated(),
                                    .prefill_chunk = ReportChunk(sequence.request),
                                    .deadline = sequence.request.deadline,
                                    .keys = std::move(sequence.keys),
                                    .reuse = !sequence.reports_on_prompt()};
  live_.emplace(id, std::move(sequence));
  switch (planner_->Add(std::move(planned))) {
    case BatchPlanner::Admission::kAdmitted:
      break;
    case BatchPlanner::Admission::kQueueFull:
      End(id, absl::ResourceExhaustedError("the worker's queue is full"), FinishReason::kStop);
      break;
    case BatchPlanner::Admission::kNeverFits:
      End(id, absl::InvalidArgumentError("the sequence can never fit the KV pool"),
          FinishReason::kStop);
      break;
  }
}

void Engine::Impl::KeepOrEnd(SequenceId id, Micros now) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  LiveSequence& sequence = found->second;
  if (sequence.link == nullptr) return;  // a link may close twice
  sequence.link.reset();
  {
    // Another link may come to lie where this one did.
    absl::MutexLock lock(&mutex_);
    ids_.erase({sequence.submitted_by, sequence.request.id});
    sequence.submitted_by = nullptr;
    sequence.request.id = id;
    ids_.emplace(LinkKey{nullptr, id}, id);
  }
  const std::string& name = sequence.request.name;
  if (!name.empty() && orphans_.Add(name, id, now)) {
    planner_->SetPaused(id, true);
  } else {
    planner_->Cancel(id);
  }
}

// The heir begins behind what it asked for of the orphan's tokens; their blocks are found like
// anybody's. Exact, because it is what the orphan computed them from that decides, not the orphan.
void Engine::Impl::TakeOver(LiveSequence heir) {
  const std::optional<SequenceId> orphan = orphans_.Find(heir.request.name);
  const int32_t count = *heir.request.take_over;
  const bool fits = orphan && heir.generated() == 0 && count < heir.request.max_tokens &&
                    Live(*orphan).generated() >= count &&
                    SameOutput(Live(*orphan).request, heir.request) &&
                    std::equal(heir.tokens.begin(), heir.tokens.end(), Live(*orphan).tokens.begin(),
                               Live(*orphan).tokens.begin() + Live(*orphan).prompt_size);
  if (!fits) return Enqueue(std::move(heir));
  const auto generated = Live(*orphan).tokens.begin() + heir.prompt_size;
  std::vector<TokenId> replayed(generated, generated + count);
  for (const TokenId token : replayed) {
    heir.tokens.push_back(token);
    heir.edits.Append(token);
  }
  MakeKeys(heir);
  const SequenceId id = heir.id;
  Enqueue(std::move(heir));
  EventOf(id).replayed = std::move(replayed);
  ++step_stats_.orphans_taken_over;
  orphans_.Remove(*orphan);
  planner_->Cancel(*orphan);
}

}  // namespace conclave::worker
