#include "scheduler/dispatch_rule.h"

#include <algorithm>
#include <optional>

#include "scheduler/check.h"

namespace conclave::scheduler {

DispatchRule::DispatchRule(const Options& options, size_t workers, int32_t self)
    : options_(options), self_(self), workers_(workers) {
  CONCLAVE_CHECK(options.slack >= 0 && options.window_rows >= 2);
  CONCLAVE_CHECK(self >= -1 && self < static_cast<int32_t>(workers));
}

void DispatchRule::SetAlive(int32_t worker, bool alive) {
  Worker& changed = workers_[static_cast<size_t>(worker)];
  const bool was_used = changed.used();
  changed.alive = alive;
  if (!was_used && changed.used()) Welcome(changed);
}

void DispatchRule::SetLate(int32_t worker, bool late) {
  Worker& changed = workers_[static_cast<size_t>(worker)];
  const bool was_used = changed.used();
  changed.late = late;
  if (!was_used && changed.used()) Welcome(changed);
}

void DispatchRule::Welcome(Worker& back) {
  std::optional<uint64_t> least;
  for (size_t i = 0; i < workers_.size(); ++i) {
    const Worker& other = workers_[i];
    if (&other == &back || !other.used() || static_cast<int32_t>(i) == self_) continue;
    least = std::min(least.value_or(other.load), other.load);
  }
  if (!least || *least <= back.load) return;
  total_ += *least - back.load;
  back.load = *least;
}

void DispatchRule::SetDistance(int32_t worker, int32_t distance) {
  workers_[static_cast<size_t>(worker)].distance = distance;
}

void DispatchRule::Choose(const Placement& placement, std::span<const ExpertId> experts,
                          std::span<int32_t> workers) {
  CONCLAVE_CHECK(placement.workers.size() == workers_.size());
  CONCLAVE_CHECK(experts.size() == workers.size());
  for (Worker& worker : workers_) worker.reached = false;
  for (const bool single : {true, false}) {
    for (size_t i = 0; i < experts.size(); ++i) {
      const std::span<const int32_t> owners = OwnersOf(placement, experts[i]);
      if ((owners.size() == 1) != single) continue;
      workers[i] = Pick(owners);
      if (workers[i] != kNobody) Count(workers[i]);
    }
  }
}

int32_t DispatchRule::ChooseOne(std::span<const int32_t> owners, bool late) {
  for (Worker& worker : workers_) worker.reached = false;
  const int32_t chosen = late ? Pick(owners) : PickAmong(owners, /*late=*/false);
  if (chosen != kNobody) Count(chosen);
  return chosen;
}

bool DispatchRule::CanChoose(std::span<const int32_t> owners, bool late) const {
  return (late ? Pick(owners) : PickAmong(owners, /*late=*/false)) != kNobody;
}

int32_t DispatchRule::Pick(std::span<const int32_t> owners) const {
  const int32_t prompt = PickAmong(owners, /*late=*/false);
  return prompt != kNobody ? prompt : PickAmong(owners, /*late=*/true);
}

int32_t DispatchRule::PickAmong(std::span<const int32_t> owners, bool late) const {
  int32_t reached = kNobody, any = kNobody;
  for (const int32_t owner : owners) {
    const Worker& worker = workers_[static_cast<size_t>(owner)];
    if (!worker.alive || worker.late != late) continue;
    if (owner == self_) return owner;
    if (any == kNobody || Better(owner, any)) any = owner;
    if (worker.reached && (reached == kNobody || Better(owner, reached))) reached = owner;
  }
  return reached != kNobody && !Overloaded(reached) ? reached : any;
}

bool DispatchRule::Better(int32_t a, int32_t b) const {
  const Worker &first = workers_[static_cast<size_t>(a)],
               &second = workers_[static_cast<size_t>(b)];
  if (first.load != second.load) return first.load < second.load;
  return first.distance < second.distance;
}

bool DispatchRule::Overloaded(int32_t worker) const {
  const double mean = static_cast<double>(total_) / static_cast<double>(workers_.size());
  return static_cast<double>(load(worker)) > mean * (1 + options_.slack);
}

void DispatchRule::Count(int32_t worker) {
  Worker& chosen = workers_[static_cast<size_t>(worker)];
  chosen.reached = true;
  ++chosen.load;
  if (++total_ < options_.window_rows) return;
  total_ = 0;
  for (Worker& each : workers_) total_ += each.load /= 2;
}

}  // namespace conclave::scheduler
