#include "scheduler/placement_change.h"

#include <algorithm>
#include <utility>

#include "scheduler/check.h"

namespace conclave::scheduler {
namespace {

using Member = PlacementChange::Member;

const Member* Find(std::span<const Member> members, const std::string& id) {
  const auto found = std::find_if(members.begin(), members.end(),
                                  [&](const Member& member) { return member.id == id; });
  return found == members.end() ? nullptr : &*found;
}

bool Alive(std::span<const Member> members, const std::string& id) {
  const Member* const member = Find(members, id);
  return member != nullptr && member->alive;
}

std::vector<std::string> AliveOf(std::span<const Member> members) {
  std::vector<std::string> ids;
  for (const Member& member : members) {
    if (member.alive) ids.push_back(member.id);
  }
  return ids;
}

// The first worker that a placement names and that is not alive; null: all are.
const std::string* LostOf(const Placement& placement, std::span<const Member> members) {
  for (const std::string& worker : placement.workers) {
    if (!Alive(members, worker)) return &worker;
  }
  return nullptr;
}

std::string DiedOf(const std::set<std::string>& workers) {
  std::string names;
  for (const std::string& worker : workers) names += (names.empty() ? "" : ", ") + worker;
  return (workers.size() == 1 ? "worker " : "workers ") + names + " died";
}

// One of `able`, ascending, does not own in `current` an expert that is `wanted` of it. Both have
// the same versions of adapters.
bool IsShort(const Placement& current, const Placement& wanted,
             const std::vector<std::string>& able) {
  std::vector<std::optional<int32_t>> now;  // [worker of wanted] in current
  std::vector<bool> is_able;
  for (const std::string& worker : wanted.workers) {
    now.push_back(IndexOf(current, worker));
    is_able.push_back(std::binary_search(able.begin(), able.end(), worker));
  }
  for (ExpertId expert = 0; expert < EndOfIds(wanted); ++expert) {
    for (const int32_t owner : OwnersOf(wanted, expert)) {
      const auto worker = static_cast<size_t>(owner);
      if (is_able[worker] && !(now[worker] && Owns(current, *now[worker], expert))) return true;
    }
  }
  return false;
}

// What is wanted once `next` has other versions of adapters: those that stay are wanted where they
// were, though some of their owners may be away at the moment.
Placement WithVersionsOf(const Placement& wanted, const Placement& next) {
  Placement merged = WithAdaptersOf(wanted, next);
  for (PlacedAdapter& adapter : merged.adapters) {
    if (const PlacedAdapter* const stays = FindAdapter(wanted, adapter.digest)) adapter = *stays;
  }
  return merged;
}

}  // namespace

PlacementChange::PlacementChange(const Options& options, const Stored& stored, Micros now)
    : options_(options), stored_(stored), since_(now), quiet_since_(now) {
  CONCLAVE_CHECK(options.prepare_timeout > Micros::zero());
  CONCLAVE_CHECK(options.adopt_timeout > Micros::zero());
  CONCLAVE_CHECK(options.settle >= options.regroup && options.regroup >= Micros::zero());
  if (!stored_.wanted) stored_.wanted = stored_.current;
}

PlacementChange::Phase PlacementChange::phase() const {
  if (stored_.next) return Phase::kPrepared;
  if (!stored_.current) return Phase::kNone;
  return stored_.floor < stored_.current->epoch ? Phase::kCommitted : Phase::kStable;
}

PlacementChange::Proposal PlacementChange::Propose(Placement target,
                                                   std::span<const Member> members, Micros now,
                                                   Purpose purpose) {
  using Verdict = Proposal::Verdict;
  const bool may_end = purpose == Purpose::kPlan && stored_.purpose == Purpose::kRestore;
  if (phase() == Phase::kPrepared && !may_end) {
    return {Verdict::kBusy, 0, "plan " + std::to_string(stored_.next->plan) + " is being prepared"};
  }
  if (phase() == Phase::kCommitted) {
    return {Verdict::kBusy, 0, "not all workers have adopted epoch " + std::to_string(epoch())};
  }
  std::string problem = ProblemOf(target, options_.limits);
  if (!problem.empty()) return {Verdict::kInvalid, 0, std::move(problem)};
  if (const std::string* const lost = LostOf(target, members)) {
    return {Verdict::kLost, 0, "worker " + *lost + " is not alive"};
  }
  if (stored_.next) Abort({.why = "another plan was proposed"});
  Prepare(std::move(target), purpose, now);
  ++stats_.proposed;
  return {Verdict::kPrepared, stored_.last_plan, ""};
}

void PlacementChange::Prepare(Placement target, Purpose purpose, Micros now) {
  target.plan = ++stored_.last_plan;
  target.epoch = epoch() + 1;
  stored_.next = std::move(target);
  stored_.purpose = purpose;
  since_ = now;
  outcomes_[static_cast<size_t>(purpose)].reset();
}

bool PlacementChange::Step(std::span<const Member> members, Micros now) {
  bool changed = UpdateFences(members);
  if (phase() == Phase::kPrepared) changed |= StepPrepared(members, now);
  changed |= StepEmergency(members, now);
  if (phase() == Phase::kCommitted) changed |= StepCommitted(members, now);
  if (phase() == Phase::kStable) changed |= StepRestore(members, now);
  return changed;
}

// The next committed epoch is one of after every death that is known now. Who was dead before the
// scheduler started has had its emergency epoch: a death and what follows from it are saved as one.
bool PlacementChange::UpdateFences(std::span<const Member> members) {
  bool changed = false;
  for (const Member& member : members) {
    const auto fence = fences_.find(member.id);
    const bool fenced = fence != fences_.end();
    if (!member.alive && !(fenced && fence->second.dead)) {
      fences_[member.id] = {.epoch = first_ ? epoch() : epoch() + 1};
      bereaved_ |= !first_ && stored_.current;
      if (bereaved_) died_.insert(member.id);
      changed = true;
    } else if (member.alive && fenced) {
      fence->second.dead = false;
      if (member.adopted < fence->second.epoch) continue;
      fences_.erase(fence);
      changed = true;
    }
  }
  std::erase_if(fences_, [&](const auto& fence) { return Find(members, fence.first) == nullptr; });
  first_ = false;
  return changed;
}

bool PlacementChange::StepPrepared(std::span<const Member> members, Micros now) {
  const Placement& next = *stored_.next;
  if (bereaved_) {
    Abort({.why = DiedOf(died_)});
    return true;
  }
  if (const std::string* const lost = LostOf(next, members)) {
    Abort({.why = "worker " + *lost + " was lost before it acknowledged"});
    return true;
  }
  const Member* waits = nullptr;
  for (const std::string& worker : next.workers) {
    const Member& member = *Find(members, worker);
    if (member.refused == next.plan) {
      Abort({.why = "worker " + worker + " cannot: " + member.why,
             .refused = true,
             .code = member.code});
      restore_after_ = now + options_.restore_again;
      return true;
    }
    if (member.acknowledged != next.plan) waits = &member;
  }
  if (waits == nullptr) {
    CommitNext(now);
    return true;
  }
  if (now - since_ < options_.prepare_timeout) return false;
  Abort({.why = "worker " + waits->id + " did not acknowledge it in time"});
  restore_after_ = now + options_.restore_again;
  return true;
}

void PlacementChange::CommitNext(Micros now) {
  Placement next = *std::exchange(stored_.next, std::nullopt);
  const Purpose purpose = stored_.purpose;
  outcomes_[static_cast<size_t>(purpose)] = {
      .plan = next.plan, .committed = true, .epoch = next.epoch};
  ++(purpose == Purpose::kRestore ? stats_.restored : stats_.committed);
  if (purpose == Purpose::kPlan) stored_.wanted = next;
  if (purpose == Purpose::kAdapters)
    stored_.wanted = stored_.wanted ? WithVersionsOf(*stored_.wanted, next) : next;
  Commit(std::move(next), purpose, now);
}

// Two reasons: a worker of the placement is gone; or one that may still send by it was declared
// dead, and a new epoch is what tells its frames from those of the living.
bool PlacementChange::StepEmergency(std::span<const Member> members, Micros now) {
  if (!Gathered(members, now) || !stored_.current) return false;
  if (!bereaved_ && LostOf(*stored_.current, members) == nullptr) return false;
  if (stored_.next) {
    Abort({.why = bereaved_ ? DiedOf(died_) : DiedOf({*LostOf(*stored_.current, members)})});
  }
  Placement recovered = *Recovered(*stored_.current, AliveOf(members));
  recovered.plan = ++stored_.last_plan;
  recovered.epoch = epoch() + 1;
  ++stats_.emergencies;
  Commit(std::move(recovered), Purpose::kPlan, now);
  return true;
}

// Whether those that are there are likely to be all that are left.
bool PlacementChange::Gathered(std::span<const Member> members, Micros now) {
  const auto alive = [](const Member& member) { return member.alive; };
  if (std::none_of(members.begin(), members.end(), alive)) {
    gathering_ = true;
    gathered_since_.reset();
    return false;
  }
  if (!gathering_) return true;
  if (!gathered_since_) gathered_since_ = now;
  const bool runs = std::any_of(members.begin(), members.end(),
                                [](const Member& member) { return member.alive && member.warm; });
  return now - *gathered_since_ >= (runs ? options_.regroup : options_.settle);
}

// Who has not adopted any placement sends by none, and is waited for only where it is the first
// one. Who is fenced is refused whatever it sends.
bool PlacementChange::StepCommitted(std::span<const Member> members, Micros now) {
  const bool waits = std::any_of(members.begin(), members.end(), [&](const Member& member) {
    return member.alive && !Fenced(member.id) && member.adopted < epoch() &&
           (member.adopted > 0 || floor() == 0);
  });
  if (waits && now - since_ < options_.adopt_timeout) return false;
  // At least one home steps by it, so it is one that works.
  const bool used = std::any_of(members.begin(), members.end(), [&](const Member& member) {
    return member.alive && member.adopted >= epoch();
  });
  if (!used) return false;
  if (waits) ++stats_.released_late;
  stored_.floor = epoch();
  since_ = now;
  if (last_ != Purpose::kAdapters) quiet_since_ = now;
  return true;
}

// What is wanted, as far as those that are there allow. A worker that serves by the present epoch
// is given again what it owned; the one that does not yet is waited for by nobody.
bool PlacementChange::StepRestore(std::span<const Member> members, Micros now) {
  if (bereaved_ || now < restore_after_ || now - quiet_since_ < options_.restore) return false;
  if (LostOf(*stored_.current, members) != nullptr) return false;  // some may be on their way back
  std::vector<std::string> able;
  for (const Member& member : members) {
    const bool owns = IndexOf(*stored_.current, member.id).has_value();
    if (!member.leaving && (owns ? member.alive : Serves(member))) able.push_back(member.id);
  }
  std::sort(able.begin(), able.end());
  if (whole_epoch_ == epoch() && whole_for_ == able) return false;  // asked at every step
  if (!IsShort(*stored_.current, *stored_.wanted, able)) {
    whole_epoch_ = epoch();
    whole_for_ = std::move(able);
    return false;
  }
  Prepare(*Recovered(*stored_.wanted, able), Purpose::kRestore, now);
  return true;
}

void PlacementChange::Abort(Outcome outcome) {
  outcome.plan = stored_.next->plan;
  outcomes_[static_cast<size_t>(stored_.purpose)] = std::move(outcome);
  stored_.next.reset();
  stored_.purpose = Purpose::kPlan;
  ++stats_.aborted;
}

void PlacementChange::Commit(Placement placement, Purpose purpose, Micros now) {
  CONCLAVE_CHECK(placement.epoch == epoch() + 1);
  stored_.current = std::move(placement);
  stored_.purpose = Purpose::kPlan;
  last_ = purpose;
  since_ = now;
  if (purpose != Purpose::kAdapters) quiet_since_ = now;
  bereaved_ = false;
  died_.clear();
  gathering_ = false;
}

bool PlacementChange::Serves(const Member& member) const {
  return member.alive && !Fenced(member.id) && member.adopted > 0 && member.adopted >= floor();
}

const char* NameOf(PlacementChange::Phase phase) {
  switch (phase) {
    case PlacementChange::Phase::kNone:
      return "none";
    case PlacementChange::Phase::kStable:
      return "stable";
    case PlacementChange::Phase::kPrepared:
      return "prepared";
    case PlacementChange::Phase::kCommitted:
      return "committed";
  }
  return "unknown";
}

}  // namespace conclave::scheduler
