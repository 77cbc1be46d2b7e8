#include "worker/experts/expert_host.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"
#include "worker/status.h"

namespace conclave::worker {

using scheduler::Epoch;
using scheduler::EpochKeeper;
using scheduler::Placement;

ExpertHost::ExpertHost(const Options& options, const FrameLimits& limits, const Model& model,
                       Device& device, std::unique_ptr<Transport> transport)
    : options_(options),
      experts_(model.Experts().size()),
      store_(options.store, model),
      adapters_(options.adapters, model, store_,
                [this] { return busy_.load(std::memory_order_relaxed); }),
      transport_(std::move(transport)),
      epochs_(options.epochs, options.id),
      server_(options.server, limits, model.Experts(), device, transport_.get(),
              [this](PeerIndex from, const FrameHeader& header,
                     std::span<const FrameRoute> routes) { return Judge(from, header, routes); }),
      exchange_(options.exchange, limits, server_, transport_.get()) {
  if (transport_ != nullptr) transport_->Start(this);
}

ExpertHost::~ExpertHost() {
  if (transport_ != nullptr) transport_->Stop();
}

absl::Status ExpertHost::Prepare(std::shared_ptr<const Placement> placement) {
  return Prepare(std::move(placement), /*committed=*/false);
}

absl::Status ExpertHost::PrepareCommitted(std::shared_ptr<const Placement> placement) {
  return Prepare(std::move(placement), /*committed=*/true);
}

absl::Status ExpertHost::Prepare(std::shared_ptr<const Placement> placement, bool committed) {
  if (const std::string problem = scheduler::ProblemOf(*placement, options_.placement);
      !problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("placement: ", problem));
  }
  if (placement->owners.size() != experts_) {
    return absl::InvalidArgumentError(absl::StrCat("placement: names ", placement->owners.size(),
                                                   " experts, the model has ", experts_));
  }
  const absl::StatusOr<AdapterStore::Lacks> lacks = HoldAll(*placement, committed);
  const uint64_t plan = placement->plan;
  EpochKeeper::Prepared prepared{};
  if (lacks.ok()) {
    const std::lock_guard lock(mutex_);
    prepared = epochs_.Prepare(std::move(placement));
    if (prepared == EpochKeeper::Prepared::kReady) lacks_[plan] = *lacks;
  }
  DropUnneeded();  // what another plan, whose place this one took, had held; or this one in vain
  CONCLAVE_RETURN_IF_ERROR(lacks.status());
  if (prepared == EpochKeeper::Prepared::kReady) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("plan ", plan, " comes after a later one, or after its epoch"));
}

absl::StatusOr<AdapterStore::Lacks> ExpertHost::HoldAll(const Placement& placement,
                                                        bool committed) {
  std::vector<scheduler::ExpertId> own = scheduler::OwnedBy(placement, options_.id);
  own.erase(std::lower_bound(own.begin(), own.end(), experts_), own.end());  // adapters'
  CONCLAVE_RETURN_IF_ERROR(store_.Hold(own));
  {
    const std::lock_guard lock(mutex_);
    held_.insert(own.begin(), own.end());
  }
  CONCLAVE_RETURN_IF_ERROR(CheckIdsOfLacks(placement));
  // Nobody waits for one that owns nothing: it had better stay outside than lack something there.
  const bool may_lack = committed && scheduler::IndexOf(placement, options_.id).has_value();
  const AdapterStore::Lacks known = Lacks();
  CONCLAVE_ASSIGN_OR_RETURN(
      AdapterStore::Lacks lacks,
      adapters_.HoldBut(placement, options_.id, [&](const std::string& digest) {
        // What is lacked already keeps no other change from being made.
        return may_lack || known.contains(digest);
      }));
  server_.Quiet([this] {
    for (const auto& [expert, weights] : adapters_.All()) server_.SetWeights(expert, weights);
  });
  return lacks;
}

// What is lacked has no weights that could tell whose its ids are, and they mean it for as long as
// a placement that names it is held.
absl::Status ExpertHost::CheckIdsOfLacks(const Placement& placement) const {
  const std::lock_guard lock(mutex_);
  for (const EpochKeeper::Shared& held : epochs_.All()) {
    const auto lacks = lacks_.find(held->plan);
    if (lacks == lacks_.end()) continue;
    for (const auto& [digest, why] : lacks->second) {
      const scheduler::PlacedAdapter& lacked = *FindAdapter(*held, digest);
      for (const scheduler::PlacedAdapter& adapter : placement.adapters) {
        const bool apart = adapter.first + adapter.replaced.size() <= lacked.first ||
                           lacked.first + lacked.replaced.size() <= adapter.first;
        if (apart || adapter.digest == digest) continue;
        return absl::FailedPreconditionError(absl::StrCat(
            "ids of adapter ", adapter.digest, " are still adapter ", digest, "'s here"));
      }
    }
  }
  return absl::OkStatus();
}

AdapterStore::Lacks ExpertHost::Lacks() const {
  const std::lock_guard lock(mutex_);
  const auto lacks = epochs_.committed() ? lacks_.find(epochs_.committed()->plan) : lacks_.end();
  return lacks == lacks_.end() ? AdapterStore::Lacks() : lacks->second;
}

std::string ExpertHost::WhyLacks(const std::string& digest) const {
  const std::lock_guard lock(mutex_);
  if (epochs_.adopted() == nullptr) return "";
  const auto lacks = lacks_.find(epochs_.adopted()->plan);
  if (lacks == lacks_.end()) return "";
  const auto why = lacks->second.find(digest);
  if (why == lacks->second.end()) return "";
  return absl::StrCat("worker ", options_.id, " lacks its experts: ", why->second);
}

std::optional<ExpertHost::Lacking> ExpertHost::LackingOwner() const {
  const std::optional<PeerExchange::Lacking>& lacking = exchange_.lacking();
  if (!lacking) return std::nullopt;
  const std::lock_guard lock(mutex_);
  for (const scheduler::PlacedAdapter& adapter : epochs_.adopted()->adapters) {
    if (lacking->expert < adapter.first ||
        lacking->expert - adapter.first >= adapter.replaced.size())
      continue;
    return Lacking{adapter.digest, absl::StrCat("worker ", lacking->worker, " lacks its experts")};
  }
  return std::nullopt;
}

// Gives back what no placement held here needs, between two passes of the server; the home itself
// steps by one of them.
void ExpertHost::DropUnneeded() {
  AdapterStore::Dropped memory;  // given back when the server computes again
  server_.Quiet([&] {
    const std::lock_guard lock(mutex_);
    std::vector<scheduler::ExpertId> dropped;
    const std::vector<scheduler::ExpertId> needed = epochs_.Needed();
    std::set_difference(held_.begin(), held_.end(), needed.begin(), needed.end(),
                        std::back_inserter(dropped));
    for (const scheduler::ExpertId expert : dropped) held_.erase(expert);
    store_.Drop(dropped);
    ForgetLacks();
    memory = adapters_.Keep(epochs_.All(), options_.id, [this](scheduler::ExpertId expert) {
      server_.SetWeights(expert, nullptr);
    });
  });
}

// Of placements that are held no more, and what has come since. Under mutex_.
void ExpertHost::ForgetLacks() {
  std::map<uint64_t, AdapterStore::Lacks> all = std::exchange(lacks_, {});
  for (const EpochKeeper::Shared& placement : epochs_.All()) {
    AdapterStore::Lacks& lacks = all[placement->plan];
    std::erase_if(lacks, [&](const auto& lack) {
      return adapters_.Holds(*placement, lack.first, options_.id);
    });
    if (!lacks.empty()) lacks_[placement->plan] = std::move(lacks);
  }
}

absl::Status ExpertHost::Commit(uint64_t plan, Epoch epoch) {
  {
    const std::lock_guard lock(mutex_);
    if (epochs_.Commit(plan, epoch) == EpochKeeper::Committed::kUnknown) {
      return absl::NotFoundError(absl::StrCat("plan ", plan, " is not prepared here"));
    }
  }
  exchange_.Ring();  // a step that waits for what the last placement cannot give is given up
  return absl::OkStatus();
}

void ExpertHost::Abort(uint64_t plan) {
  {
    const std::lock_guard lock(mutex_);
    epochs_.Abort(plan);
  }
  DropUnneeded();
}

void ExpertHost::Release(Epoch below) {
  {
    const std::lock_guard lock(mutex_);
    epochs_.Release(below);
  }
  DropUnneeded();
}

void ExpertHost::SetPeers(const std::vector<Peer>& peers) {
  if (transport_ == nullptr) return;
  const std::lock_guard lock(mutex_);
  std::map<std::string, Known> known;
  for (const Peer& peer : peers) {
    if (peer.id == options_.id) continue;
    const PeerIndex index = transport_->Connect(peer);
    if (index < 0) continue;  // one too many: nobody to ask anything of
    known[peer.id] = {peer, index};
    if (dead_.size() <= static_cast<size_t>(index)) dead_.resize(static_cast<size_t>(index) + 1);
    const bool dies = !peer.alive && !dead_[static_cast<size_t>(index)];
    dead_[static_cast<size_t>(index)] = !peer.alive;
    if (dies) exchange_.OnDown(index);
  }
  for (const auto& [id, old] : peers_) {
    const auto still = known.find(id);
    if (still != known.end() && still->second.index == old.index) continue;
    transport_->Forget(old.index);
    exchange_.OnDown(old.index);
  }
  peers_ = std::move(known);
  exchange_.Ring();
}

Epoch ExpertHost::adopted() const {
  const std::lock_guard lock(mutex_);
  return epochs_.adopted_epoch();
}

uint64_t ExpertHost::prepared_plan() const {
  const std::lock_guard lock(mutex_);
  return epochs_.prepared_plan();
}

std::shared_ptr<const Placement> ExpertHost::committed() const {
  const std::lock_guard lock(mutex_);
  return epochs_.committed();
}

std::vector<Peer> ExpertHost::Lost() const {
  const std::lock_guard lock(mutex_);
  std::vector<Peer> lost;
  for (const auto& [id, known] : peers_) {
    const auto index = static_cast<size_t>(known.index);
    if (known.peer.alive && index < down_.size() && down_[index]) lost.push_back(known.peer);
  }
  return lost;
}

std::vector<std::string> ExpertHost::Late() const {
  const std::vector<PeerIndex> late = exchange_.Late();
  const std::lock_guard lock(mutex_);
  std::vector<std::string> ids;
  for (const auto& [id, known] : peers_) {
    if (std::binary_search(late.begin(), late.end(), known.index)) ids.push_back(id);
  }
  return ids;
}

void ExpertHost::OnNews(std::function<void()> callback) {
  const std::lock_guard lock(mutex_);
  on_news_ = std::move(callback);
}

std::shared_ptr<const Placement> ExpertHost::BeginStep(uint64_t step) {
  busy_.fetch_add(1, std::memory_order_relaxed);
  PeerExchange::Table table;
  table.waits = options_.needs_placement;
  std::function<void()> told;
  std::shared_ptr<const Placement> adopted;
  exchange_.ForgetLosses();
  {
    const std::lock_guard lock(mutex_);
    if (epochs_.AdoptAtStep()) {
      told = on_news_;
      adopted = epochs_.adopted();
    }
    if (epochs_.adopted() != nullptr) {
      table.placement = epochs_.adopted();
      table.self = scheduler::IndexOf(*table.placement, options_.id).value_or(-1);
      for (const std::string& worker : table.placement->workers) {
        const auto known = peers_.find(worker);
        const bool usable = known != peers_.end() && known->second.peer.alive;
        table.peers.push_back(usable ? known->second.index : -1);
      }
    }
  }
  exchange_.BeginStep(step, table);
  if (told) told();
  return adopted;
}

const FfnWeights& ExpertHost::SharedWeights(scheduler::ExpertId expert) const {
  const FfnWeights* const weights = adapters_.Find(expert);
  CONCLAVE_CHECK(weights != nullptr);
  return *weights;
}

Refusal ExpertHost::Judge(PeerIndex from, const FrameHeader& header,
                          std::span<const FrameRoute> routes) const {
  const std::lock_guard lock(mutex_);
  if (static_cast<size_t>(from) < dead_.size() && dead_[static_cast<size_t>(from)])
    return Refusal::kFenced;
  const Placement* const placement = epochs_.Served(header.epoch, header.plan);
  if (placement == nullptr) return Refusal::kEpoch;
  const int32_t self = scheduler::IndexOf(*placement, options_.id).value_or(-1);
  const bool all = std::all_of(routes.begin(), routes.end(), [&](const FrameRoute& route) {
    return scheduler::Owns(*placement, self, route.expert);
  });
  return all ? Refusal::kNone : Refusal::kNotOwned;
}

void ExpertHost::OnFrame(PeerIndex from, const FrameHeader& header, FrameBody body) {
  busy_.fetch_add(1, std::memory_order_relaxed);
  if (IsQuestion(header.kind)) {
    server_.Submit({from, header, std::move(body)});
  } else {
    exchange_.OnAnswer(from, header, std::move(body));
  }
}

void ExpertHost::OnDown(PeerIndex peer) {
  exchange_.OnDown(peer);
  std::function<void()> told;
  {
    const std::lock_guard lock(mutex_);
    const auto index = static_cast<size_t>(peer);
    if (down_.size() <= index) down_.resize(index + 1);
    down_[index] = true;
    told = on_news_;
  }
  if (told) told();
}

void ExpertHost::OnUp(PeerIndex peer) {
  {
    const std::lock_guard lock(mutex_);
    const auto index = static_cast<size_t>(peer);
    if (index < down_.size()) down_[index] = false;
  }
  exchange_.Ring();
}

std::vector<scheduler::ExpertId> ExpertHost::Owned() const {
  const std::lock_guard lock(mutex_);
  if (epochs_.adopted() != nullptr) return scheduler::OwnedBy(*epochs_.adopted(), options_.id);
  std::vector<scheduler::ExpertId> all(experts_);
  std::iota(all.begin(), all.end(), scheduler::ExpertId{0});
  return all;
}

ExpertHost::Stats ExpertHost::stats() const {
  Stats stats;
  {
    const std::lock_guard lock(mutex_);
    stats.epoch = epochs_.adopted_epoch();
    stats.held = epochs_.held();
    for (const auto& [id, known] : peers_) stats.peers += transport_->up(known.index);
  }
  stats.owned = Owned().size();
  stats.server = server_.stats();
  stats.exchange = exchange_.stats();
  if (transport_ != nullptr) stats.transport = transport_->stats();
  stats.store = store_.stats();
  stats.adapters = adapters_.stats();
  return stats;
}

}  // namespace conclave::worker
