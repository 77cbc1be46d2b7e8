#include "scheduler/membership.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::scheduler {

Membership::Membership(const Options& options, const Stored& stored, Micros now)
    : options_(options), epoch_(stored.epoch), version_(stored.version) {
  CONCLAVE_CHECK(options.suspect_after > Micros::zero());
  CONCLAVE_CHECK(options.dead_after > options.suspect_after);
  CONCLAVE_CHECK(options.broken_after > Micros::zero());
  CONCLAVE_CHECK(options.broken_after <= options.dead_after);
  CONCLAVE_CHECK(options.forget_after > options.dead_after);
  CONCLAVE_CHECK(options.max_workers >= 1);
  for (const Worker& worker : stored.workers) {
    Known& known = workers_[worker.id] = {worker, now};
    known.worker.heard = known.worker.broken = false;
  }
}

Membership::Heard Membership::Heartbeat(const Beat& beat, Micros now) {
  const auto found = workers_.find(beat.id);
  const bool joins = found == workers_.end();
  if (joins && static_cast<int32_t>(workers_.size()) >= options_.max_workers) return Heard::kFull;
  if (!joins && beat.incarnation < found->second.worker.incarnation) return Heard::kStale;

  Known& known = joins ? workers_[beat.id] : found->second;
  const WorkerState state = beat.draining ? WorkerState::kDraining : WorkerState::kReady;
  const bool changed = joins || known.worker.incarnation != beat.incarnation ||
                       known.worker.address != beat.address || known.worker.state != state;
  known.worker = {.id = beat.id,
                  .incarnation = beat.incarnation,
                  .address = beat.address,
                  .state = state,
                  .heard = true};
  known.heard = joins ? now : std::max(known.heard, now);
  if (changed) ++version_;
  return Heard::kAccepted;
}

void Membership::ReportBroken(const std::string& id, uint64_t incarnation) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.worker.incarnation != incarnation) return;
  found->second.worker.broken = true;
}

void Membership::Excuse(Micros deaf, Micros now) {
  for (auto& [id, known] : workers_)
    known.heard = std::max(known.heard, std::min(known.heard + deaf, now));
}

Micros Membership::DeadAfter(const Known& known) const {
  return known.worker.broken ? options_.broken_after : options_.dead_after;
}

bool Membership::Tick(Micros now) {
  bool changed = false;
  for (auto it = workers_.begin(); it != workers_.end();) {
    Known& known = it->second;
    const Micros silent = now - known.heard;
    WorkerState state = known.worker.state;
    if (silent >= DeadAfter(known)) {
      state = WorkerState::kDead;
    } else if (silent >= options_.suspect_after && state == WorkerState::kReady) {
      state = WorkerState::kSuspect;
    }
    const bool forgotten = silent >= options_.forget_after;
    changed |= forgotten || state != known.worker.state;
    known.worker.state = state;
    it = forgotten ? workers_.erase(it) : std::next(it);
  }
  if (changed) ++version_;
  return changed;
}

Micros Membership::ChangeDue(const Known& known) const {
  switch (known.worker.state) {
    case WorkerState::kReady:
      return known.heard + std::min(options_.suspect_after, DeadAfter(known));
    case WorkerState::kDraining:
    case WorkerState::kSuspect:
      return known.heard + DeadAfter(known);
    case WorkerState::kDead:
      break;
  }
  return known.heard + options_.forget_after;
}

std::optional<Micros> Membership::NextChange() const {
  std::optional<Micros> next;
  for (const auto& [id, known] : workers_) {
    const Micros due = ChangeDue(known);
    if (!next || due < *next) next = due;
  }
  return next;
}

void Membership::SetEpoch(Epoch epoch) {
  CONCLAVE_CHECK(epoch >= epoch_);
  epoch_ = epoch;
  ++version_;
}

std::vector<Membership::Worker> Membership::Workers() const {
  std::vector<Worker> workers;
  workers.reserve(workers_.size());
  for (const auto& [id, known] : workers_) workers.push_back(known.worker);
  return workers;
}

Membership::Stored Membership::Save() const {
  return {.epoch = epoch_, .version = version_, .workers = Workers()};
}

}  // namespace conclave::scheduler
