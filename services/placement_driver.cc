#include "services/placement_driver.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/log.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::Membership;
using scheduler::Micros;
using scheduler::Placement;
using scheduler::PlacementChange;
using scheduler::WorkerState;
using Phase = PlacementChange::Phase;

bool Alive(const Membership::Worker& worker) { return worker.state != WorkerState::kDead; }

// Who may be given experts, by id: those that will stay and were heard.
std::vector<std::string> Owners(const PlacementDriver::Workers& workers) {
  std::vector<std::string> ids;
  for (const Membership::Worker& worker : workers) {
    if (worker.heard && Alive(worker) && worker.state != WorkerState::kDraining)
      ids.push_back(worker.id);
  }
  return ids;
}

std::string Describe(const PlacementChange& change) {
  return absl::StrFormat("epoch %d, released below %d, %s%s", change.epoch(), change.floor(),
                         NameOf(change.phase()),
                         change.next() ? absl::StrFormat(" plan %d", change.next()->plan) : "");
}

}  // namespace

PlacementDriver::PlacementDriver(const Options& options, const PlacementChange::Stored& stored,
                                 Micros now)
    : options_(options), change_(options.change, stored, now), first_due_(options.workers > 0) {}

bool PlacementDriver::Hear(const v1::HeartbeatRequest& beat) {
  const v1::WorkerInfo& info = beat.worker();
  Report& report = reports_[info.id()];
  const bool known = report.incarnation == info.incarnation();
  Report now{.incarnation = info.incarnation(),
             .said = beat.placement(),
             .adopted = info.epoch(),
             .warm = known ? report.warm : info.epoch() > 0,
             .placed = info.placed()};
  const bool news = !known || now.adopted != report.adopted ||
                    now.said.acknowledged() != report.said.acknowledged() ||
                    now.said.refused() != report.said.refused();
  report = std::move(now);
  return news;
}

std::vector<PlacementChange::Member> PlacementDriver::MembersOf(const Workers& workers) const {
  std::vector<PlacementChange::Member> members;
  for (const Membership::Worker& worker : workers) {
    PlacementChange::Member& member = members.emplace_back();
    member.id = worker.id;
    member.alive = Alive(worker);
    member.leaving = worker.state == WorkerState::kDraining;
    const auto report = reports_.find(worker.id);
    if (report == reports_.end() || report->second.incarnation != worker.incarnation) continue;
    member.warm = report->second.warm;
    member.acknowledged = report->second.said.acknowledged();
    member.refused = report->second.said.refused();
    member.code = report->second.said.code();
    member.why = report->second.said.why();
    member.adopted = report->second.adopted;
  }
  return members;
}

bool PlacementDriver::Step(const Workers& workers, const v1::ModelInfo* model, Micros now) {
  std::erase_if(reports_, [&](const auto& report) {
    return std::none_of(workers.begin(), workers.end(),
                        [&](const auto& worker) { return worker.id == report.first; });
  });
  const uint64_t open = change_.next() ? change_.next()->plan : 0;
  const std::string was = Describe(change_);
  bool changed = change_.Step(MembersOf(workers), now);
  if (Describe(change_) != was) LogInfo("placement: %s", Describe(change_));
  using Purpose = PlacementChange::Purpose;
  for (const Purpose purpose : {Purpose::kPlan, Purpose::kRestore, Purpose::kAdapters}) {
    const std::optional<PlacementChange::Outcome>& outcome = change_.outcome(purpose);
    if (open != 0 && outcome && outcome->plan == open && !outcome->committed)
      LogWarning("plan %d is taken back: %s", open, outcome->why);
  }
  const uint64_t plan = change_.Save().last_plan;
  MaybePlaceFirst(workers, model, now);
  changed |= change_.Save().last_plan != plan;
  const std::set<std::string> before = std::exchange(joining_, JoiningOf(workers));
  return changed || joining_ != before;
}

// Once, when all are there. A cluster that runs already keeps what it has.
void PlacementDriver::MaybePlaceFirst(const Workers& workers, const v1::ModelInfo* model,
                                      Micros now) {
  if (!first_due_ || model == nullptr || now < first_after_) return;
  const bool runs = std::any_of(reports_.begin(), reports_.end(),
                                [](const auto& report) { return report.second.warm; });
  if (runs && change_.current()) {
    first_due_ = false;
    return;
  }
  if (first_plan_ != 0 && change_.outcome() && change_.outcome()->plan == first_plan_) {
    if (change_.outcome()->committed) {
      first_due_ = false;
      return;
    }
    first_plan_ = 0;
    first_after_ = now + options_.retry;
    return;
  }
  if (operators_ != 0 && change_.outcome() && change_.outcome()->plan == operators_ &&
      change_.outcome()->committed) {
    first_due_ = false;  // an operator was first
    return;
  }
  if (change_.phase() == Phase::kPrepared) return;
  std::vector<std::string> owners = Owners(workers);
  if (owners.size() < static_cast<size_t>(options_.workers)) return;
  if (options_.first) owners.resize(static_cast<size_t>(options_.workers));
  absl::StatusOr<Placement> placement = FirstOf(owners, *model);
  PlacementChange::Proposal proposal;
  if (placement.ok()) {
    Remember();
    proposal = change_.Propose(WithPresentAdapters(*std::move(placement)), MembersOf(workers), now);
    if (proposal.verdict == PlacementChange::Proposal::Verdict::kPrepared) {
      first_plan_ = proposal.plan;
      LogInfo("the first placement is plan %d, over %d workers", proposal.plan, owners.size());
      return;
    }
  } else {
    proposal.problem = std::string(placement.status().message());
  }
  first_after_ = now + options_.retry;
  LogError("the first placement cannot be made: %s", proposal.problem);
}

absl::StatusOr<Placement> PlacementDriver::FirstOf(const std::vector<std::string>& owners,
                                                   const v1::ModelInfo& model) const {
  if (options_.first) return Resolve(*options_.first, owners, model);
  const auto layers = static_cast<int32_t>(model.moe_layers());
  const auto slots = static_cast<int32_t>(model.experts());
  Placement even = scheduler::Contiguous(owners, layers, slots);
  const std::optional<Placement>& wanted = change_.Save().wanted;
  // What a stopped cluster had stands when it is started again.
  const bool same =
      wanted && wanted->workers == even.workers && wanted->owners.size() == even.owners.size();
  return same ? *wanted : std::move(even);
}

std::set<std::string> PlacementDriver::JoiningOf(const Workers& workers) const {
  std::set<std::string> joining;
  const std::vector<PlacementChange::Member> members = MembersOf(workers);
  // While the first placement comes into force, workers that compute everything themselves go on.
  const bool strict = options_.workers > 0 || change_.floor() > 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    // Who was not heard yet is as it was when the last scheduler heard it.
    if (!workers[i].heard) continue;
    const auto report = reports_.find(workers[i].id);
    const bool placed = report != reports_.end() && report->second.placed;
    const bool serves =
        strict || placed ? change_.Serves(members[i]) : !change_.Fenced(workers[i].id);
    if (!serves) joining.insert(workers[i].id);
  }
  return joining;
}

v1::WorkerState PlacementDriver::StateOf(const Membership::Worker& worker,
                                         v1::WorkerState state) const {
  if (worker.state != WorkerState::kReady && worker.state != WorkerState::kSuspect) return state;
  return joining_.contains(worker.id) ? v1::WORKER_STATE_JOINING : state;
}

absl::StatusOr<uint64_t> PlacementDriver::Apply(const Plan& plan, const Workers& workers,
                                                const v1::ModelInfo* model, Micros now) {
  if (model == nullptr) return absl::FailedPreconditionError("no worker has joined yet");
  CONCLAVE_ASSIGN_OR_RETURN(Placement placement, Resolve(plan, Owners(workers), *model));
  Remember();
  PlacementChange::Proposal proposal =
      change_.Propose(WithPresentAdapters(std::move(placement)), MembersOf(workers), now);
  switch (proposal.verdict) {
    case PlacementChange::Proposal::Verdict::kPrepared:
      operators_ = proposal.plan;
      LogInfo("an operator's placement is plan %d", proposal.plan);
      return proposal.plan;
    case PlacementChange::Proposal::Verdict::kBusy:
      return absl::AbortedError(absl::StrFormat("%s; ask again later", proposal.problem));
    case PlacementChange::Proposal::Verdict::kLost:
    case PlacementChange::Proposal::Verdict::kInvalid:
      break;
  }
  return absl::FailedPreconditionError(proposal.problem);
}

// Of another model's placement nothing stays.
Placement PlacementDriver::WithPresentAdapters(Placement placement) const {
  const std::optional<Placement>& current = change_.current();
  if (!current || current->owners.size() != placement.owners.size()) return placement;
  return scheduler::WithAdaptersOf(std::move(placement), *current);
}

PlacementChange::Proposal PlacementDriver::Propose(const scheduler::AdapterCatalogue::Wish& wish,
                                                   const Workers& workers,
                                                   const v1::ModelInfo* model, Micros now) {
  using Verdict = PlacementChange::Proposal::Verdict;
  std::optional<Placement> placement = change_.current();
  if (!placement) {
    if (options_.workers > 0) return {Verdict::kBusy, 0, "the first placement is not made yet"};
    std::vector<std::string> owners = Owners(workers);
    if (model == nullptr || owners.empty()) return {Verdict::kLost, 0, "no worker is alive"};
    placement = scheduler::Everywhere(std::move(owners),
                                      size_t{model->moe_layers()} * size_t{model->experts()});
  }
  placement = wish.add ? scheduler::WithAdapter(*std::move(placement), *wish.add)
                       : scheduler::WithoutAdapter(*std::move(placement), wish.remove);
  const PlacementChange::Proposal proposal = change_.Propose(
      *std::move(placement), MembersOf(workers), now, PlacementChange::Purpose::kAdapters);
  if (proposal.verdict == Verdict::kPrepared) {
    LogInfo("plan %d %s version %s of an adapter", proposal.plan, wish.add ? "adds" : "takes away",
            wish.add ? wish.add->digest : wish.remove);
  }
  return proposal;
}

// How the last plan ended is known until the next one is opened, and somebody may yet ask.
void PlacementDriver::Remember() {
  const std::optional<Outcome>& outcome = change_.outcome();
  if (!outcome || (!past_.empty() && past_.back().plan == outcome->plan)) return;
  past_.push_back(*outcome);
  if (past_.size() > kPastMax) past_.pop_front();
}

std::optional<absl::StatusOr<scheduler::Epoch>> PlacementDriver::EndOf(uint64_t plan) const {
  if (change_.next() && change_.next()->plan == plan) return std::nullopt;
  const auto past = std::find_if(past_.begin(), past_.end(),
                                 [&](const Outcome& one) { return one.plan == plan; });
  const std::optional<Outcome> outcome = past == past_.end() ? change_.outcome() : *past;
  if (!outcome || outcome->plan != plan) {
    return absl::AbortedError(absl::StrFormat(
        "what became of plan %d is not known any more; ask for the placement there is", plan));
  }
  if (!outcome->committed) {
    return absl::AbortedError(
        absl::StrFormat("plan %d is taken back and nothing has changed: %s", plan, outcome->why));
  }
  if (change_.floor() < outcome->epoch) return std::nullopt;
  return outcome->epoch;
}

void PlacementDriver::Fill(v1::ClusterView* view) const {
  if (change_.current()) *view->mutable_placement() = ToProto(*change_.current());
  if (change_.next()) *view->mutable_prepared() = ToProto(*change_.next());
  view->set_released(change_.floor());
}

std::map<std::string, size_t> PlacementDriver::Owned() const {
  std::map<std::string, size_t> owned;
  if (!change_.current()) return owned;
  const std::vector<size_t> counts = scheduler::CountOwned(*change_.current());
  for (size_t i = 0; i < counts.size(); ++i) owned[change_.current()->workers[i]] = counts[i];
  return owned;
}

}  // namespace conclave::services
