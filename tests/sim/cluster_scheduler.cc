#include "tests/sim/cluster_scheduler.h"

#include <algorithm>
#include <utility>

#include "tests/sim/cluster_router.h"
#include "tests/sim/cluster_worker.h"

namespace conclave::sim {

using scheduler::AdapterCatalogue;
using scheduler::Membership;
using scheduler::PlacementChange;
using scheduler::WorkerState;
using std::chrono::milliseconds;

namespace {

constexpr Micros kTick = milliseconds(50);
constexpr Micros kDeaf = milliseconds(250);

}  // namespace

void SimScheduler::OnStart() {
  membership_ = std::make_unique<Membership>(Membership::Options(), disk_.membership, now());
  change_ = std::make_unique<PlacementChange>(PlacementChange::Options(), disk_.placement, now());
  AdapterCatalogue::Options adapters;
  adapters.rotation = {.bytes = world_.adapter_bytes, .turn = milliseconds(500)};
  catalogue_ = std::make_unique<AdapterCatalogue>(adapters, disk_.adapters, now());
  reports_.clear();
  router_.reset();
  saving_ = false;
  ticked_ = committed_ = now();
  Tick();
}

void SimScheduler::OnCrash() {
  if (change_ == nullptr) return;
  const PlacementChange::Stats& stats = change_->stats();
  world_.totals.plans += stats.proposed;
  world_.totals.committed += stats.committed;
  world_.totals.aborted += stats.aborted;
  world_.totals.emergencies += stats.emergencies;
  const AdapterCatalogue::Stats& adapters = catalogue_->stats();
  world_.totals.added += adapters.added;
  world_.totals.replaced += adapters.replaced;
  world_.totals.removed += adapters.removed;
  world_.totals.failed += adapters.failed;
  world_.totals.versions_freed += adapters.bytes_freed;
  world_.totals.to_memory += adapters.to_memory;
  world_.totals.to_disk += adapters.to_disk;
  world_.totals.lacked += adapters.lacked;
}

void SimScheduler::Tick() {
  if (now() - ticked_ > kDeaf) membership_->Excuse(now() - ticked_, now());
  ticked_ = now();
  Decide();
  After(kTick, [this] { Tick(); });
}

void SimScheduler::OnBeat(const Beat& beat) {
  if (membership_->Heartbeat(beat.member, now()) != Membership::Heard::kAccepted) return;
  Report& report = reports_[beat.member.id];
  const bool known = report.beat.member.incarnation == beat.member.incarnation;
  report = {beat,
            known ? report.warm : beat.adopted > 0,
            {.at = now(),
             .view = beat.seen_version,
             .in_use = beat.in_use,
             .lacks = beat.lacks,
             .check = beat.check,
             .found = beat.found}};
  for (const auto& [peer, incarnation] : beat.lost) membership_->ReportBroken(peer, incarnation);
  if (beat.seen_version < disk_.view->version) Tell(IndexOf(beat.member.id));
  Decide();
}

std::vector<PlacementChange::Member> SimScheduler::Members() const {
  std::vector<PlacementChange::Member> members;
  for (const Membership::Worker& worker : membership_->Workers()) {
    PlacementChange::Member& member = members.emplace_back();
    member.id = worker.id;
    member.alive = worker.state != WorkerState::kDead;
    const auto report = reports_.find(worker.id);
    if (report == reports_.end() || report->second.beat.member.incarnation != worker.incarnation)
      continue;
    member.warm = report->second.warm;
    member.acknowledged = report->second.beat.acknowledged;
    member.refused = report->second.beat.refused;
    member.why = "no memory";
    member.adopted = report->second.beat.adopted;
  }
  return members;
}

void SimScheduler::Decide() {
  bool changed = false;
  membership_->Tick(now());
  const Epoch floor = change_->floor(), epoch = change_->epoch();
  const uint64_t proposed = change_->stats().committed;
  changed |= change_->Step(Members(), now());
  if (change_->stats().committed != proposed) world_.ledger.Commits(*change_->current());
  if (change_->epoch() != epoch) committed_ = now();
  if (change_->floor() != floor) CheckRelease();
  const auto all = static_cast<size_t>(world_.workers_count);
  if (change_->phase() == PlacementChange::Phase::kNone && reports_.size() == all) {
    std::vector<std::string> ids;
    for (const auto& [id, report] : reports_) ids.push_back(id);
    const auto proposal = change_->Propose(
        scheduler::Contiguous(ids, world_.model.layers, world_.model.slots), Members(), now());
    changed |= proposal.verdict == PlacementChange::Proposal::Verdict::kPrepared;
  }
  std::map<std::string, bool> serving;
  for (const PlacementChange::Member& member : Members())
    serving[member.id] = change_->Serves(member);
  changed |= std::exchange(serving_, serving) != serving;
  changed |= DecideAdapters();
  if (changed) membership_->SetEpoch(change_->epoch());
  Save();
}

bool SimScheduler::DecideAdapters() {
  std::vector<AdapterCatalogue::Worker> workers;
  for (const Membership::Worker& worker : membership_->Workers()) {
    const auto report = reports_.find(worker.id);
    const bool present =
        report != reports_.end() && report->second.beat.member.incarnation == worker.incarnation;
    workers.push_back({.id = worker.id,
                       .alive = worker.state != WorkerState::kDead,
                       .report = present ? &report->second.adapters : nullptr});
  }
  std::vector<AdapterCatalogue::Router> routers;
  if (router_) routers.push_back({.address = "r", .report = &*router_});
  const AdapterCatalogue::Known known{.view = membership_->version(),
                                      .workers = workers,
                                      .routers = routers,
                                      .placement = *change_};
  const std::map<std::string, std::string> before = catalogue_->Save().active;
  const bool changed = catalogue_->Step(known, now());
  for (const auto& [name, digest] : catalogue_->Save().active) {
    const bool is_new = !before.contains(name) || before.at(name) != digest;
    if (is_new && !catalogue_->Save().versions.at(digest).on_disk) CheckServed(digest);
  }
  const std::optional<AdapterCatalogue::Wish> wish = catalogue_->Next(known, now());
  if (!wish) return changed;
  if (!wish->add) CheckRemoval(wish->remove);
  const Placement& current = *change_->current();
  Placement next =
      wish->add ? WithAdapter(current, *wish->add) : WithoutAdapter(current, wish->remove);
  if (wish->add) CheckRoom(next);
  const auto proposal =
      change_->Propose(std::move(next), Members(), now(), PlacementChange::Purpose::kAdapters);
  catalogue_->Proposed(*wish, proposal, now());
  return true;
}

// As CheckRelease: by whoever is believed to serve.
void SimScheduler::CheckServed(const std::string& digest) const {
  if (now() - committed_ >= PlacementChange::Options().adopt_timeout) return;
  const std::vector<PlacementChange::Member> members = Members();
  const std::vector<Membership::Worker> workers = membership_->Workers();
  for (size_t i = 0; i < workers.size(); ++i) {
    const Membership::Worker& worker = workers[i];
    const SimWorker& process = *world_.workers[static_cast<size_t>(IndexOf(worker.id))];
    const bool counts = worker.heard && worker.state != WorkerState::kDead &&
                        !change_->Fenced(worker.id) && process.up() &&
                        process.incarnation() == worker.incarnation;
    const auto report = reports_.find(worker.id);
    if (!counts || report == reports_.end() || report->second.beat.adopted == 0) continue;
    // One that was fenced until now, and was not waited for, gets no requests yet.
    if (process.adopted() == 0 || !change_->Serves(members[i])) continue;
    Expect(FindAdapter(*process.keeper().adopted(), digest) != nullptr,
           "a name means a version when all workers serve it");
  }
}

// By what the router really has. One that was not heard for long is not waited for.
void SimScheduler::CheckRemoval(const std::string& digest) const {
  if (!router_ || now() - router_->at >= AdapterCatalogue::Options().silent) return;
  if (catalogue_->Save().versions.at(digest).on_disk) {
    Expect(!world_.router->Runs(VersionOf(digest)), "a version leaves memory when no request runs");
  } else {
    Expect(!world_.router->Holds(VersionOf(digest)), "a version goes when no request holds it");
  }
}

void SimScheduler::CheckRoom(const Placement& placement) const {
  if (world_.adapter_bytes == 0) return;
  std::vector<uint64_t> bytes(placement.workers.size());
  for (const scheduler::PlacedAdapter& adapter : placement.adapters) {
    for (const std::vector<int32_t>& owners : adapter.owners) {
      for (const int32_t owner : owners) ++bytes[static_cast<size_t>(owner)];
    }
  }
  for (const uint64_t one : bytes)
    Expect(one <= world_.adapter_bytes, "an adapter comes to memory where there is room");
}

void SimScheduler::Operate(const std::string& name, uint64_t version) {
  if (!change_->current()) return;
  if (version == 0) {
    catalogue_->Remove("", name);
  } else {
    catalogue_->Add("", name, "/" + DigestOf(version));
  }
  membership_->SetEpoch(change_->epoch());
  Decide();
}

bool SimScheduler::adapters_settled() const {
  const scheduler::AdapterRegister& adapters = catalogue_->Save();
  const bool open = std::any_of(
      adapters.operations.begin(), adapters.operations.end(),
      [](const scheduler::AdapterOperation& operation) { return IsOpen(operation.stage); });
  if (open || !adapters.draining.empty() || !change_->current()) return false;
  const auto& placed = change_->current()->adapters;
  return std::all_of(placed.begin(), placed.end(), [&](const scheduler::PlacedAdapter& adapter) {
    return IsActive(adapters, adapter.digest);
  });
}

// What is known of a process is never ahead of it, so whoever still sends by the old epoch and is
// believed alive is waited for.
void SimScheduler::CheckRelease() const {
  if (now() - committed_ >= PlacementChange::Options().adopt_timeout) return;
  for (const Membership::Worker& worker : membership_->Workers()) {
    const SimWorker& process = *world_.workers[static_cast<size_t>(IndexOf(worker.id))];
    const bool counts = worker.heard && worker.state != WorkerState::kDead &&
                        !change_->Fenced(worker.id) && process.up() &&
                        process.incarnation() == worker.incarnation;
    if (!counts || process.adopted() == 0) continue;
    const auto report = reports_.find(worker.id);
    if (report == reports_.end() || report->second.beat.adopted == 0) continue;
    Expect(process.adopted() >= change_->floor(),
           "an epoch is released when nobody alive sends by it");
  }
}

void SimScheduler::Apply(const std::vector<std::vector<int32_t>>& owners) {
  std::vector<std::string> alive;
  for (const Membership::Worker& worker : membership_->Workers()) {
    if (worker.heard && worker.state != WorkerState::kDead) alive.push_back(worker.id);
  }
  if (alive.empty() || !change_->current()) return;
  Placement target{.workers = alive};
  for (const std::vector<int32_t>& of : owners) {
    std::set<int32_t> own;
    for (const int32_t owner : of) own.insert(owner % static_cast<int32_t>(alive.size()));
    target.owners.emplace_back(own.begin(), own.end());
  }
  target = WithAdaptersOf(std::move(target), *change_->current());
  const auto proposal = change_->Propose(std::move(target), Members(), now());
  if (proposal.verdict != PlacementChange::Proposal::Verdict::kPrepared) return;
  membership_->SetEpoch(change_->epoch());
  Save();
}

// One save at a time; what was decided meanwhile goes with the next. A save that fails changed
// nothing.
void SimScheduler::Save() {
  if (saving_ || membership_->version() == disk_.view->version) return;
  saving_ = true;
  Disk next{membership_->Save(), change_->Save(), catalogue_->Save(), MakeView()};
  After(Micros(world_.random.Between(100, 8000)), [this, next = std::move(next)] {
    saving_ = false;
    if (!world_.random.Chance(2)) {
      disk_ = next;
      world_.ledger.Told(*disk_.view);
      for (int32_t worker = 0; worker < world_.workers_count; ++worker) Tell(worker);
    }
    Save();
  });
}

SharedView SimScheduler::MakeView() const {
  auto view = std::make_shared<View>();
  view->version = membership_->version();
  const std::vector<PlacementChange::Member> members = Members();
  const std::vector<Membership::Worker> workers = membership_->Workers();
  for (size_t i = 0; i < workers.size(); ++i) {
    const bool alive = members[i].alive;
    view->workers.push_back({.id = workers[i].id,
                             .incarnation = workers[i].incarnation,
                             .alive = alive,
                             .ready = alive && workers[i].state == WorkerState::kReady &&
                                      (!workers[i].heard || change_->Serves(members[i])),
                             .fenced = change_->Fenced(workers[i].id)});
  }
  if (change_->current()) view->placement = std::make_shared<const Placement>(*change_->current());
  if (change_->next()) view->prepared = std::make_shared<const Placement>(*change_->next());
  view->released = change_->floor();
  view->adapters = catalogue_->Rows();
  for (const scheduler::AdapterRow& row : view->adapters) {
    if (!catalogue_->WhyNot(row.digest).empty()) view->lost.insert(row.digest);
    if (catalogue_->IsLacked(row.digest)) view->lacking.insert(row.digest);
  }
  if (const scheduler::AdapterOperation* const checking = catalogue_->Checking()) {
    view->check = checking->check;
    view->checked_version = VersionOf(checking->source.substr(1));
  }
  return view;
}

void SimScheduler::Tell(int32_t worker) {
  world_.wire.Send(world_.scheduler_node(), worker, [this, worker, view = disk_.view] {
    SimWorker& process = *world_.workers[static_cast<size_t>(worker)];
    process.Take([&process, view] { process.OnView(view); });
  });
}

void SimScheduler::OnRouterAsks(const AdapterCatalogue::Report& said) {
  router_ = said;
  router_->at = now();
  if (said.view >= disk_.view->version) return;
  world_.wire.Send(world_.scheduler_node(), world_.router_node(),
                   [this, view = disk_.view] { world_.router->OnView(view); });
}

}  // namespace conclave::sim
