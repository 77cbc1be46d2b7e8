#include "scheduler/adapter_catalogue.h"

#include <algorithm>
#include <iterator>

#include "scheduler/check.h"

namespace conclave::scheduler {
namespace {

using Worker = AdapterCatalogue::Worker;

AdapterVersion VersionOf(const AdapterOperation& operation) {
  return {.source = operation.source,
          .replaced = operation.experts,
          .bytes = operation.bytes,
          .shared_bytes = operation.shared_bytes};
}

// Whether no worker serves it or is about to.
bool IsGone(const PlacementChange& change, const std::string& digest) {
  return !(change.current() && FindAdapter(*change.current(), digest)) &&
         change.floor() == change.epoch() &&
         !(change.next() && FindAdapter(*change.next(), digest));
}

// Errors of which a worker may think better.
bool MayPass(AdapterError error) {
  return error == AdapterError::kUnavailable || error == AdapterError::kNotNow ||
         error == AdapterError::kBusy;
}

std::string Seconds(Micros time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count()) + " s";
}

}  // namespace

// Whether every worker serves by a placement that has the version, and no plan takes it away.
bool AdapterCatalogue::Serves(const PlacementChange& change, const std::string& digest) {
  return change.current() && change.floor() == change.epoch() &&
         FindAdapter(*change.current(), digest) != nullptr &&
         !(change.next() && FindAdapter(*change.next(), digest) == nullptr);
}

AdapterCatalogue::AdapterCatalogue(const Options& options, Stored stored, Micros now)
    : options_(options), started_(now), stored_(std::move(stored)), rotation_(options.rotation) {
  CONCLAVE_CHECK(options.timeout > Micros::zero());
  CONCLAVE_CHECK(options.limits.open >= 1 && options.limits.ended >= 1);
}

AdapterAnswer AdapterCatalogue::Add(const std::string& id, const std::string& name,
                                    const std::string& source) {
  return Begin({.id = id, .name = name, .source = source});
}

AdapterAnswer AdapterCatalogue::Remove(const std::string& id, const std::string& name) {
  return Begin({.id = id, .removes = true, .name = name, .stage = AdapterStage::kDraining});
}

AdapterAnswer AdapterCatalogue::Begin(AdapterOperation operation) {
  if (const std::optional<AdapterAnswer> answer = AnswerOf(stored_, operation, options_.limits))
    return *answer;
  operation.check = ++stored_.last_number;
  if (operation.id.empty()) operation.id = "#" + std::to_string(operation.check);
  if (operation.removes) {
    const auto active = stored_.active.find(operation.name);
    operation.digest = active->second;
    operation.bytes = stored_.versions[operation.digest].bytes;
    stored_.draining.insert({operation.name, operation.digest});
    stored_.active.erase(active);
  }
  stored_.operations.push_back(operation);
  SettleDraining();
  ForgetEnded();
  return {.id = operation.id};
}

bool AdapterCatalogue::Step(const Known& known, Micros now) {
  bool changed = StepLacks(known);
  changed |= StepLost(known);
  changed |= StepPlan(known, now);
  changed |= StepChecking(known, now);
  changed |= StepPlacing(known, now);
  changed |= StepComing(known);
  changed |= StepRotation(known, now);
  changed |= StepLeaving(known, now);
  changed |= StepGone(known);
  if (changed) ForgetEnded();
  return changed;
}

// What is not on disk and has a name goes only with the base model that it was for.
bool AdapterCatalogue::StepLost(const Known& known) {
  const bool lost =
      known.placement.current() &&
      std::any_of(stored_.active.begin(), stored_.active.end(), [&](const auto& active) {
        return !IsOnDisk(active.second) && IsGone(known.placement, active.second);
      });
  if (!lost) return false;
  for (AdapterOperation& operation : stored_.operations) {
    if (IsOpen(operation.stage))
      Fail(operation, AdapterError::kNotNow, "another base model is served now");
  }
  stored_.active.clear();
  stored_.draining.clear();
  stored_.versions.clear();
  coming_.reset();
  return true;
}

// A worker that cannot ends the operation; all else is tried again. What was committed shows in the
// placement.
bool AdapterCatalogue::StepPlan(const Known& known, Micros now) {
  if (!plan_) return false;
  if (known.placement.next() && known.placement.next()->plan == plan_->first) return false;
  const auto& outcome = known.placement.outcome(PlacementChange::Purpose::kAdapters);
  AdapterOperation* const operation = Mutable(plan_->second);
  const bool known_end = outcome && outcome->plan == plan_->first;
  plan_.reset();
  if (known_end && outcome->committed) return false;
  if (const auto came = std::exchange(coming_, std::nullopt)) {
    rotation_.Failed(*came, known_end ? outcome->why : "its plan was taken back", now);
    return true;
  }
  if (!known_end) return false;
  waits_ = outcome->why;
  not_before_ = now + options_.again;
  const auto error = static_cast<AdapterError>(outcome->code);
  if (operation == nullptr || !outcome->refused || MayPass(error)) return false;
  Fail(*operation, error == AdapterError::kNone ? AdapterError::kInternal : error, outcome->why);
  return true;
}

bool AdapterCatalogue::StepChecking(const Known& known, Micros now) {
  const AdapterOperation* const head = FirstIn(AdapterStage::kChecking);
  if (head == nullptr) return false;
  AdapterOperation& operation = *Mutable(head->id);
  const Worker* first = nullptr;  // to have found it
  const Worker* waits = nullptr;
  for (const Worker& worker : known.workers) {
    if (!worker.alive || worker.leaving) continue;
    if (worker.report == nullptr || worker.report->check != operation.check) {
      waits = &worker;
      continue;
    }
    const FoundAdapter& found = worker.report->found;
    if (found.error != AdapterError::kNone) {
      Fail(operation, found.error, "worker " + worker.id + ": " + found.message);
      return true;
    }
    if (first == nullptr) first = &worker;
    const FoundAdapter& before = first->report->found;
    if (found.digest == before.digest && found.replaced == before.replaced) continue;
    Fail(operation, AdapterError::kNotNow,
         operation.source + " is not the same everywhere: worker " + first->id + " finds version " +
             before.digest + ", worker " + worker.id + " version " + found.digest);
    return true;
  }
  if (waits != nullptr || first == nullptr) {
    waits_ = first == nullptr && waits == nullptr ? "no worker is alive"
                                                  : "worker " + waits->id + " has not verified it";
    return TooLate(operation, now);
  }
  operation.digest = first->report->found.digest;
  operation.experts = first->report->found.replaced;
  operation.bytes = first->report->found.bytes;
  operation.shared_bytes = first->report->found.shared_bytes;
  operation.stage = AdapterStage::kPlacing;
  waits_ = "it is not placed yet";
  return true;
}

bool AdapterCatalogue::StepPlacing(const Known& known, Micros now) {
  bool changed = false;
  for (AdapterOperation& operation : stored_.operations) {
    if (operation.stage != AdapterStage::kPlacing) continue;
    if (!Serves(known.placement, operation.digest)) continue;
    const bool lacked = IsLacked(operation.digest);
    // It leaves first, and is placed anew.
    if (lacked && stored_.versions.contains(operation.digest)) continue;
    Activate(operation, lacked);
    changed = true;
  }
  const AdapterOperation* const head = FirstIn(AdapterStage::kPlacing);
  // What is proposed ends by itself, what is committed goes on.
  if (head == nullptr || plan_) return changed;
  const auto& current = known.placement.current();
  if (current && FindAdapter(*current, head->digest)) return changed;
  if (HasRoom(*head, known.placement)) return TooLate(*head, now) || changed;
  AdapterOperation& operation = *Mutable(head->id);
  const AdapterVersion version = VersionOf(operation);
  std::string problem =
      rotation_.ProblemOf(*current, ToBePlaced(operation.digest, version), version);
  if (problem.empty()) {
    Activate(operation, /*on_disk=*/true);
  } else {
    Fail(operation, AdapterError::kFull, std::move(problem));
  }
  return true;
}

bool AdapterCatalogue::HasRoom(const AdapterOperation& operation,
                               const PlacementChange& change) const {
  if (!change.current()) return true;
  AdapterRotation::Versions versions = stored_.versions;
  const AdapterVersion version = VersionOf(operation);
  versions.try_emplace(operation.digest, version);
  return rotation_.Fits(WithAdapter(*change.current(), ToBePlaced(operation.digest, version)),
                        versions);
}

void AdapterCatalogue::Activate(AdapterOperation& operation, bool on_disk) {
  const auto active = stored_.active.find(operation.name);
  const bool had = active != stored_.active.end();
  if (had && active->second != operation.digest) {
    operation.replaced = active->second;
    stored_.draining.insert({operation.name, active->second});
    ++stats_.replaced;
  } else {
    ++(had ? stats_.unchanged : stats_.added);
  }
  stored_.active[operation.name] = operation.digest;
  stored_.versions.try_emplace(operation.digest, VersionOf(operation)).first->second.on_disk =
      on_disk;
  operation.stage = AdapterStage::kDone;
  operation.experts.clear();
  SettleDraining();
}

// What has a name does not drain, by whatever name it did.
void AdapterCatalogue::SettleDraining() {
  std::erase_if(stored_.draining, [&](const auto& one) { return IsActive(stored_, one.second); });
  for (AdapterOperation& operation : stored_.operations) {
    if (operation.stage != AdapterStage::kDraining || !IsActive(stored_, operation.digest))
      continue;
    operation.stage = AdapterStage::kDone;
    ++stats_.removed;
  }
}

bool AdapterCatalogue::StepComing(const Known& known) {
  if (!coming_ || !Serves(known.placement, *coming_)) return false;
  const auto version = stored_.versions.find(*coming_);
  if (version != stored_.versions.end() && !IsLacked(*coming_)) {
    version->second.on_disk = false;
    ++stats_.to_memory;
  }
  coming_.reset();
  return true;
}

// Its memory is given back once every worker follows a view that says that epochs with it are over.
bool AdapterCatalogue::StepGone(const Known& known) {
  bool changed = false;
  std::vector<std::string> free;
  for (const auto& [digest, version] : stored_.versions) {
    if (!IsGone(known.placement, digest)) continue;
    const auto [gone, is_new] = gone_.try_emplace(digest, Gone{.view = known.view + 1});
    changed |= is_new;
    gone->second.freed =
        std::all_of(known.workers.begin(), known.workers.end(), [&](const Worker& worker) {
          return !worker.alive || (worker.report && worker.report->view >= gone->second.view);
        });
    if (!gone->second.freed || IsWanted(digest)) continue;
    // Requests that wait for its memory hold it too.
    const auto leaving = leaving_.find(digest);
    const bool held =
        version.on_disk && (leaving == leaving_.end() || !MayGo(leaving->second, digest, known));
    if (!held) free.push_back(digest);
  }
  std::erase_if(gone_, [&](const auto& one) { return !IsGone(known.placement, one.first); });
  for (const std::string& digest : free) Free(digest);
  return changed || !free.empty();
}

// The operation that made it unwanted, the last one, tells how much it was.
void AdapterCatalogue::Free(const std::string& digest) {
  uint64_t bytes = stored_.versions[digest].bytes;
  stats_.bytes_freed += bytes;
  stored_.versions.erase(digest);
  gone_.erase(digest);
  std::erase_if(stored_.draining, [&](const auto& one) { return one.second == digest; });
  for (auto it = stored_.operations.rbegin(); it != stored_.operations.rend(); ++it) {
    const bool removes = it->removes && it->digest == digest;
    if (!removes && it->replaced != digest) continue;
    it->bytes_freed += std::exchange(bytes, 0);
    if (it->stage != AdapterStage::kDraining) continue;
    it->stage = AdapterStage::kDone;
    ++stats_.removed;
  }
}

bool AdapterCatalogue::TooLate(const AdapterOperation& operation, Micros now) {
  Head& head = heads_[operation.stage];
  if (head.id != operation.id) head = {.id = operation.id, .since = now};
  if (now - head.since < options_.timeout) return false;
  Fail(*Mutable(operation.id), AdapterError::kTooLate,
       "nothing has changed after " + Seconds(options_.timeout) + ": " + waits_);
  return true;
}

std::optional<AdapterCatalogue::Wish> AdapterCatalogue::Next(const Known& known, Micros now) const {
  if (plan_ || now < not_before_) return std::nullopt;
  using Phase = PlacementChange::Phase;
  const PlacementChange& change = known.placement;
  if (change.phase() != Phase::kStable && change.phase() != Phase::kNone) return std::nullopt;
  for (const AdapterOperation& operation : stored_.operations) {
    if (operation.stage != AdapterStage::kPlacing) continue;
    if (change.current() && FindAdapter(*change.current(), operation.digest)) continue;
    if (!HasRoom(operation, change) || !AllIsFreed()) break;
    return Wish{.add = PlacedAdapter{.digest = operation.digest,
                                     .source = operation.source,
                                     .replaced = operation.experts}};
  }
  for (const auto& [digest, leaving] : leaving_) {
    if (FindAdapter(*change.current(), digest) && MayGo(leaving, digest, known))
      return Wish{.remove = digest};
  }
  if (!change.current() || coming_ || !AllIsFreed()) return std::nullopt;
  const auto comer = rotation_.Comer(*change.current(), stored_.versions, now);
  if (!comer) return std::nullopt;
  return Wish{.add = ToBePlaced(*comer, stored_.versions.at(*comer))};
}

void AdapterCatalogue::Proposed(const Wish& wish, const PlacementChange::Proposal& proposal,
                                Micros now) {
  using Verdict = PlacementChange::Proposal::Verdict;
  AdapterOperation* adds = nullptr;
  for (AdapterOperation& operation : stored_.operations) {
    if (!adds && wish.add && operation.stage == AdapterStage::kPlacing &&
        operation.digest == wish.add->digest)
      adds = &operation;
  }
  if (proposal.verdict == Verdict::kPrepared) {
    plan_ = {proposal.plan, adds ? adds->id : ""};
    if (wish.add && !adds) coming_ = wish.add->digest;
    waits_ = "workers are getting ready for plan " + std::to_string(proposal.plan);
    return;
  }
  waits_ = proposal.problem;
  not_before_ = now + options_.again;
  if (proposal.verdict == Verdict::kInvalid && adds)
    Fail(*adds, AdapterError::kFull, proposal.problem);
  if (wish.add && !adds) rotation_.Failed(wish.add->digest, proposal.problem, now);
}

void AdapterCatalogue::Fail(AdapterOperation& operation, AdapterError error, std::string message) {
  operation.stage = AdapterStage::kFailed;
  operation.error = error;
  message.resize(std::min(message.size(), options_.limits.message));
  operation.message = std::move(message);
  operation.experts.clear();
  ++stats_.failed;
}

void AdapterCatalogue::ForgetEnded() {
  const auto ended = [](const AdapterOperation& operation) { return !IsOpen(operation.stage); };
  auto& all = stored_.operations;
  auto excess = std::count_if(all.begin(), all.end(), ended) -
                static_cast<std::ptrdiff_t>(options_.limits.ended);
  std::erase_if(all, [&](const AdapterOperation& one) { return ended(one) && excess-- > 0; });
}

const AdapterOperation* AdapterCatalogue::FirstIn(AdapterStage stage) const {
  const auto found =
      std::find_if(stored_.operations.begin(), stored_.operations.end(),
                   [&](const AdapterOperation& operation) { return operation.stage == stage; });
  return found == stored_.operations.end() ? nullptr : &*found;
}

const AdapterOperation* AdapterCatalogue::Checking() const {
  return FirstIn(AdapterStage::kChecking);
}

AdapterOperation* AdapterCatalogue::Mutable(std::string_view operation) {
  return const_cast<AdapterOperation*>(Find(operation));
}

bool AdapterCatalogue::IsPlacing(const std::string& digest) const {
  return std::any_of(
      stored_.operations.begin(), stored_.operations.end(), [&](const AdapterOperation& operation) {
        return operation.stage == AdapterStage::kPlacing && operation.digest == digest;
      });
}

bool AdapterCatalogue::IsWanted(const std::string& digest) const {
  return IsActive(stored_, digest) || IsPlacing(digest);
}

bool AdapterCatalogue::IsComing(const std::string& digest) const {
  return coming_ == digest || IsPlacing(digest);
}

bool AdapterCatalogue::IsOnDisk(const std::string& digest) const {
  const auto version = stored_.versions.find(digest);
  return version != stored_.versions.end() && version->second.on_disk;
}

bool AdapterCatalogue::AllIsFreed() const {
  return options_.rotation.bytes == 0 ||
         std::all_of(gone_.begin(), gone_.end(), [](const auto& one) { return one.second.freed; });
}

}  // namespace conclave::scheduler
