#include "tests/sim/cluster_worker.h"

#include <algorithm>
#include <utility>

#include "tests/sim/cluster_router.h"
#include "tests/sim/cluster_scheduler.h"

namespace conclave::sim {

using scheduler::DispatchRule;
using scheduler::EpochKeeper;
using std::chrono::milliseconds;

namespace {

constexpr Micros kBeat = milliseconds(150);
constexpr Micros kLate = milliseconds(40);     // then a replica is asked too
constexpr Micros kGiveUp = milliseconds(150);  // then the step is done again
constexpr Micros kAgain = milliseconds(20);    // after a step that could not be done
constexpr int32_t kBlocks = 24;
constexpr int32_t kBlocksOfASequence = 3;

}  // namespace

void SimWorker::OnStart() {
  keeper_ = std::make_unique<EpochKeeper>(EpochKeeper::Options(), NameOf(self_));
  pool_ = std::make_unique<scheduler::BlockPool>(kBlocks);
  weights_.clear();
  lacks_.clear();
  view_ = std::make_shared<const View>();
  acknowledged_ = refused_ = checked_ = 0;
  down_.clear();
  sequences_.clear();
  stepping_ = step_due_ = false;
  Beat();
}

void SimWorker::Beat() {
  sim::Beat beat{.member = {.id = NameOf(self_), .incarnation = incarnation(), .address = "x:1"},
                 .acknowledged = acknowledged_,
                 .refused = refused_,
                 .adopted = adopted(),
                 .seen_version = view_->version,
                 .check = checked_,
                 .found = found_};
  for (const uint64_t version : {1, 2, 3, 4, 5}) {
    if (Lacks(keeper_->committed().get(), version)) beat.lacks[DigestOf(version)] = "damaged";
  }
  for (const auto& [request, sequence] : sequences_) {
    if (sequence.submit.version != 0) beat.in_use.push_back(DigestOf(sequence.submit.version));
  }
  for (const auto& [peer, process] : down_) beat.lost.emplace_back(NameOf(peer), process);
  world_.wire.Send(self_, world_.scheduler_node(), [this, beat] {
    world_.scheduler->Take([this, beat] { world_.scheduler->OnBeat(beat); });
  });
  After(kBeat, [this] { Beat(); });
}

// As services/placement_follower.cc.
void SimWorker::OnView(const SharedView& view) {
  if (view->version < view_->version) return;
  view_ = view;
  std::erase_if(down_, [&](const auto& down) {
    const View::Worker* const peer = Known(NameOf(down.first));
    return peer == nullptr || peer->incarnation != down.second || !peer->alive;
  });
  if (view->placement != nullptr && view->placement->epoch >= adopted() &&
      Prepare(view->placement, /*committed=*/true)) {
    const auto committed = keeper_->Commit(view->placement->plan, view->placement->epoch);
    Expect(committed == EpochKeeper::Committed::kCommitted, "what is prepared can be committed");
  }
  keeper_->Release(view->released);
  const uint64_t open = view->prepared == nullptr ? 0 : view->prepared->plan;
  if (keeper_->prepared_plan() != 0 && keeper_->prepared_plan() != open)
    keeper_->Abort(keeper_->prepared_plan());
  SyncWeights(nullptr);
  if (view->check != 0 && checked_ != view->check) CheckLater();
  if (open != 0 && acknowledged_ != open && refused_ != open) PrepareLater(view->prepared);
  StepSoon(Micros(0));
}

// Reading a directory takes time, and some hold no adapter.
void SimWorker::CheckLater() {
  After(Micros(world_.random.Between(0, 60'000)), [this, check = view_->check,
                                                   version = view_->checked_version] {
    if (check != view_->check) return;  // it is asked for another one by now
    checked_ = check;
    found_ = {.digest = DigestOf(version)};
    for (ExpertId expert = 0; expert < static_cast<ExpertId>(world_.model.experts()); ++expert) {
      if (Replaces(version, expert)) found_.replaced.push_back(expert);
    }
    found_.bytes = found_.replaced.size();
    if (world_.random.Chance(5) || world_.damaged.contains(version))
      found_.error = scheduler::AdapterError::kInvalid;
  });
}

// Copies take time, and sometimes there is no room for them.
void SimWorker::PrepareLater(const std::shared_ptr<const Placement>& placement) {
  After(Micros(world_.random.Between(0, 60'000)), [this, placement] {
    const bool open = view_->prepared != nullptr && view_->prepared->plan == placement->plan;
    if (!open || acknowledged_ == placement->plan || refused_ == placement->plan) return;
    if (!world_.random.Chance(5) && Prepare(placement, /*committed=*/false)) {
      acknowledged_ = placement->plan;
    } else {
      refused_ = placement->plan;
    }
  });
}

bool SimWorker::Prepare(const std::shared_ptr<const Placement>& placement, bool committed) {
  if (!CanRead(*placement, committed)) return false;
  if (keeper_->Prepare(placement) != EpochKeeper::Prepared::kReady) return false;
  LearnLacks(*placement);
  SyncWeights(placement.get());
  ForgetLacks();
  world_.ledger.Prepared(self_, incarnation(), placement->plan);
  return true;
}

// As ExpertHost: what is committed to those that it names is held but for what cannot be read, and
// what is lacked already keeps nothing else from being prepared.
bool SimWorker::CanRead(const Placement& placement, bool committed) const {
  if (committed && scheduler::IndexOf(placement, NameOf(self_))) return true;
  for (const ExpertId expert : scheduler::OwnedBy(placement, NameOf(self_))) {
    const uint64_t version = VersionOfId(placement, expert);
    if (!weights_.contains(expert) && world_.damaged.contains(version) &&
        !Lacks(keeper_->committed().get(), version))
      return false;
  }
  return true;
}

void SimWorker::LearnLacks(const Placement& placement) {
  std::set<uint64_t>& lacks = lacks_[placement.plan];
  for (const ExpertId expert : scheduler::OwnedBy(placement, NameOf(self_))) {
    const uint64_t version = VersionOfId(placement, expert);
    if (!weights_.contains(expert) && world_.damaged.contains(version)) lacks.insert(version);
  }
}

// Of what is held no more, and what came since.
void SimWorker::ForgetLacks() {
  std::map<uint64_t, std::set<uint64_t>> all = std::exchange(lacks_, {});
  for (const EpochKeeper::Shared& placement : keeper_->All()) {
    std::set<uint64_t> lacks;
    for (const ExpertId expert : scheduler::OwnedBy(*placement, NameOf(self_))) {
      const uint64_t version = VersionOfId(*placement, expert);
      if (!weights_.contains(expert) && all[placement->plan].contains(version))
        lacks.insert(version);
    }
    if (!lacks.empty()) lacks_[placement->plan] = std::move(lacks);
  }
}

bool SimWorker::Lacks(const Placement* placement, uint64_t version) const {
  if (placement == nullptr) return false;
  const auto lacks = lacks_.find(placement->plan);
  return lacks != lacks_.end() && lacks->second.contains(version);
}

// An id means the same weights in all placements that are held at once, or one's rows would be
// computed by another's.
void SimWorker::SyncWeights(const Placement* prepared) {
  const std::vector<ExpertId> needed = keeper_->Needed();
  std::erase_if(weights_, [&](const auto& held) {
    return !std::binary_search(needed.begin(), needed.end(), held.first);
  });
  if (prepared == nullptr) return ForgetLacks();
  for (const ExpertId expert : scheduler::OwnedBy(*prepared, NameOf(self_))) {
    if (Lacks(prepared, VersionOfId(*prepared, expert)) && !weights_.contains(expert)) continue;
    const uint64_t weights = WeightsOf(*prepared, expert);
    const auto [held, is_new] = weights_.emplace(expert, weights);
    Expect(held->second == weights, "an id means one expert for as long as somebody may use it");
  }
}

const View::Worker* SimWorker::Known(const std::string& id) const {
  for (const View::Worker& worker : view_->workers) {
    if (worker.id == id) return &worker;
  }
  return nullptr;
}

bool SimWorker::Usable(const std::string& id) const {
  const View::Worker* const peer = Known(id);
  return peer != nullptr && peer->alive && !peer->fenced && !down_.contains(IndexOf(id));
}

void SimWorker::OnPeerDown(int32_t peer, uint64_t process) {
  down_[peer] = process;
  After(milliseconds(200), [this, peer] {  // it connects again, if there is somebody
    if (world_.workers[static_cast<size_t>(peer)]->up()) down_.erase(peer);
  });
  if (stepping_) Redo();
}

void SimWorker::OnSubmit(const Submit& submit) {
  Sequence sequence{.submit = submit};
  const bool served =
      submit.version == 0 ||
      (keeper_->adopted() != nullptr && FindAdapter(*keeper_->adopted(), DigestOf(submit.version)));
  const bool fits = served && pool_->Take(kBlocksOfASequence, &sequence.blocks);
  if (!fits || sequences_.contains(submit.request)) {
    if (fits) pool_->GiveBack(sequence.blocks);
    world_.router->OnRefused(self_, submit.request, submit.attempt);
    return;
  }
  sequences_[submit.request] = std::move(sequence);
  StepSoon(Micros(0));
}

void SimWorker::OnCancel(uint64_t request, uint32_t attempt) {
  const auto found = sequences_.find(request);
  if (found == sequences_.end() || found->second.submit.attempt != attempt) return;
  pool_->GiveBack(found->second.blocks);
  sequences_.erase(found);
}

void SimWorker::StepSoon(Micros delay) {
  if (stepping_ || step_due_) return;
  step_due_ = true;
  After(delay, [this] {
    step_due_ = false;
    if (!stepping_) BeginStep();
  });
}

void SimWorker::BeginStep() {
  if (keeper_->AdoptAtStep()) SyncWeights(nullptr);
  EndWhatIsServedNoMore();
  if (sequences_.empty()) return;
  if (keeper_->adopted() == nullptr) return StepSoon(kAgain);
  stepping_ = true;
  ++world_.totals.steps;
  placement_ = keeper_->adopted();
  const auto self = scheduler::IndexOf(*placement_, NameOf(self_));
  if (rule_ == nullptr || rule_placement_ != placement_) {
    rule_ = std::make_unique<DispatchRule>(DispatchRule::Options(), placement_->workers.size(),
                                           self.value_or(-1));
    rule_placement_ = placement_;
  }
  for (size_t i = 0; i < placement_->workers.size(); ++i) {
    const bool alive =
        static_cast<int32_t>(i) == self.value_or(-1) || Usable(placement_->workers[i]);
    rule_->SetAlive(static_cast<int32_t>(i), alive);
  }
  rows_.clear();
  for (const auto& [request, sequence] : sequences_)
    rows_.push_back({request, sequence.submit.version, Mix(sequence.submit.last)});
  layer_ = 0;
  Dispatch();
}

// Sequences that their router has taken elsewhere while this process was away, or never had here.
void SimWorker::EndWhatIsServedNoMore() {
  if (keeper_->adopted() == nullptr) return;
  std::vector<Submit> ended;
  for (const auto& [request, sequence] : sequences_) {
    const uint64_t version = sequence.submit.version;
    if (version != 0 && (!FindAdapter(*keeper_->adopted(), DigestOf(version)) ||
                         Lacks(keeper_->adopted().get(), version)))
      ended.push_back(sequence.submit);
  }
  for (const Submit& submit : ended) {
    OnCancel(submit.request, submit.attempt);
    world_.router->OnRefused(self_, submit.request, submit.attempt);
  }
}

void SimWorker::EndAll(uint64_t version) {
  std::vector<Submit> ended;
  for (const auto& [request, sequence] : sequences_) {
    if (sequence.submit.version == version) ended.push_back(sequence.submit);
  }
  for (const Submit& submit : ended) {
    OnCancel(submit.request, submit.attempt);
    world_.router->OnRefused(self_, submit.request, submit.attempt);
  }
}

void SimWorker::Dispatch() {
  ++question_;
  experts_.clear();
  asked_.clear();
  const auto top_k = static_cast<size_t>(world_.model.top_k);
  std::vector<int32_t> chosen(top_k);
  for (const Row& row : rows_) {
    std::vector<ExpertId> experts = world_.model.Route(layer_, row.value);
    for (ExpertId& expert : experts) expert = Resolve(*placement_, row.version, expert);
    rule_->Choose(*placement_, experts, chosen);
    experts_.insert(experts_.end(), experts.begin(), experts.end());
    asked_.insert(asked_.end(), chosen.begin(), chosen.end());
  }
  outputs_.assign(experts_.size(), std::nullopt);
  std::vector<size_t> all(experts_.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  if (std::count(asked_.begin(), asked_.end(), DispatchRule::kNobody) > 0) return Redo();
  const uint64_t question = question_;
  Ask(all, false);
  if (question != question_) return;
  After(kLate, [this, question] {
    if (stepping_ && question == question_) Ask(Missing(), true);
  });
  After(kGiveUp, [this, question] {
    if (stepping_ && question == question_) Redo();
  });
}

std::vector<size_t> SimWorker::Missing() const {
  std::vector<size_t> missing;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (!outputs_[i]) missing.push_back(i);
  }
  return missing;
}

// Again: of another owner than before, where there is one.
void SimWorker::Ask(const std::vector<size_t>& routes, bool again) {
  std::map<int32_t, Frame> frames;
  std::vector<size_t> here;
  for (const size_t route : routes) {
    if (again) {
      const auto owners = scheduler::OwnersOf(*placement_, experts_[route]);
      const auto other = std::find_if(owners.begin(), owners.end(), [&](int32_t owner) {
        return owner != asked_[route] && Usable(placement_->workers[static_cast<size_t>(owner)]);
      });
      if (other == owners.end()) continue;
      asked_[route] = *other;
      ++world_.totals.hedged;
    }
    const int32_t to = IndexOf(placement_->workers[static_cast<size_t>(asked_[route])]);
    if (to == self_) {
      here.push_back(route);
      continue;
    }
    const uint64_t row = rows_[route / static_cast<size_t>(world_.model.top_k)].value;
    frames[to].routes.push_back({route, experts_[route], row});
  }
  for (auto& [to, frame] : frames) {
    const View::Worker* const peer = Known(NameOf(to));
    frame.from = self_;
    frame.from_incarnation = incarnation();
    frame.to_incarnation = peer == nullptr ? 0 : peer->incarnation;
    frame.epoch = placement_->epoch;
    frame.plan = placement_->plan;
    frame.question = question_;
    ++world_.totals.frames;
    world_.wire.Send(self_, to, [this, receiver = to, sent = frame] {
      SimWorker& owner = *world_.workers[static_cast<size_t>(receiver)];
      owner.Take([&owner, sent] { owner.OnFrame(sent); });
    });
  }
  AnswerHere(here);
}

void SimWorker::AnswerHere(const std::vector<size_t>& routes) {
  for (const size_t route : routes) {
    Expect(weights_.contains(experts_[route]), "a home has the experts it computes itself");
    outputs_[route] =
        ComputeHere(experts_[route], rows_[route / static_cast<size_t>(world_.model.top_k)].value);
  }
  MaybeNextLayer();
}

uint64_t SimWorker::ComputeHere(ExpertId expert, uint64_t row) const {
  return Compute(weights_.at(expert), row);
}

bool SimWorker::MayServe(const Frame& frame) {
  const View::Worker* const sender = Known(NameOf(frame.from));
  const bool fenced = sender == nullptr || sender->incarnation != frame.from_incarnation ||
                      !sender->alive || sender->fenced || frame.to_incarnation != incarnation();
  if (fenced) {
    ++world_.totals.fenced;
    return false;
  }
  for (const Frame::Route& route : frame.routes) {
    if (keeper_->Judge(frame.epoch, frame.plan, route.expert) == EpochKeeper::Verdict::kServe)
      continue;
    ++world_.totals.refused;
    return false;
  }
  return true;
}

void SimWorker::OnFrame(const Frame& frame) {
  Answer answer{.epoch = frame.epoch, .question = frame.question};
  answer.refused = !MayServe(frame);
  if (!answer.refused) {
    const Placement& placement = *keeper_->Served(frame.epoch, frame.plan);
    for (const Frame::Route& route : frame.routes) {
      if (Lacks(&placement, VersionOfId(placement, route.expert)) &&
          !weights_.contains(route.expert))
        answer.lacking = route.expert;
    }
    answer.refused = answer.lacking.has_value();
  }
  if (!answer.refused) {
    // By accounts of its own: what it was told, and what it holds.
    Expect(world_.ledger.HasPrepared(self_, incarnation(), frame.plan),
           "no worker serves an epoch it has neither adopted nor prepared");
    Expect(frame.epoch >= view_->released, "no worker serves what is released");
    for (const Frame::Route& route : frame.routes) {
      Expect(weights_.contains(route.expert), "no worker serves an expert it does not hold");
      answer.outputs.emplace_back(route.route, ComputeHere(route.expert, route.row));
    }
  }
  world_.wire.Send(self_, frame.from, [this, home = frame.from, answer] {
    SimWorker& process = *world_.workers[static_cast<size_t>(home)];
    process.Take([&process, answer] { process.OnAnswer(answer); });
  });
}

void SimWorker::OnAnswer(const Answer& answer) {
  if (!stepping_ || answer.question != question_) return;
  if (answer.lacking) EndAll(VersionOfId(*placement_, *answer.lacking));
  if (answer.refused) return Redo();
  Expect(answer.epoch == placement_->epoch, "a step is of one epoch");
  for (const auto& [route, output] : answer.outputs) {
    Expect(!outputs_[route] || *outputs_[route] == output, "whoever computes, the bits are equal");
    outputs_[route] = output;
  }
  MaybeNextLayer();
}

void SimWorker::MaybeNextLayer() {
  if (!Missing().empty()) return;
  const auto top_k = static_cast<size_t>(world_.model.top_k);
  for (size_t i = 0; i < rows_.size(); ++i) {
    std::vector<uint64_t> outputs;
    for (size_t j = 0; j < top_k; ++j) outputs.push_back(*outputs_[i * top_k + j]);
    rows_[i].value = Model::Combine(rows_[i].value, outputs);
  }
  if (++layer_ < world_.model.layers) return Dispatch();
  FinishStep();
}

// Nothing of it is committed.
void SimWorker::Redo() {
  stepping_ = false;
  ++question_;
  ++world_.totals.steps_redone;
  StepSoon(kAgain);
}

void SimWorker::FinishStep() {
  stepping_ = false;
  ++question_;
  for (const Row& row : rows_) {
    const auto found = sequences_.find(row.request);
    if (found == sequences_.end()) continue;  // cancelled meanwhile
    Submit& submit = found->second.submit;
    submit.last = row.value;
    world_.router->Tell(self_, {.request = row.request,
                                .attempt = submit.attempt,
                                .index = submit.index++,
                                .token = row.value});
    if (--submit.tokens == 0) {
      pool_->GiveBack(found->second.blocks);
      sequences_.erase(found);
    }
  }
  StepSoon(Micros(world_.random.Between(500, 3000)));
}

}  // namespace conclave::sim
