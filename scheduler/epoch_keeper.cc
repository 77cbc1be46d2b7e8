#include "scheduler/epoch_keeper.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "scheduler/check.h"

namespace conclave::scheduler {

EpochKeeper::EpochKeeper(const Options& options, std::string worker)
    : options_(options), worker_(std::move(worker)) {
  // Adopted, committed and prepared at once.
  CONCLAVE_CHECK(options.max_held >= 3);
}

EpochKeeper::Prepared EpochKeeper::Prepare(Shared placement) {
  CONCLAVE_CHECK(placement != nullptr && placement->epoch > 0 && placement->plan > 0);
  const auto known = held_.find(placement->epoch);
  if (known != held_.end() && known->second->plan == placement->plan) return Prepared::kReady;
  const Epoch committed = committed_ == nullptr ? 0 : committed_->epoch;
  if (placement->plan <= last_plan_) return Prepared::kStale;
  if (placement->epoch <= committed || placement->epoch < floor_) return Prepared::kStale;
  if (prepared_ != nullptr) Abort(prepared_->plan);
  last_plan_ = placement->plan;
  prepared_ = std::move(placement);
  held_[prepared_->epoch] = prepared_;
  while (held_.size() > options_.max_held) {
    const auto oldest = std::find_if(held_.begin(), held_.end(), [&](const auto& one) {
      return one.second != adopted_ && one.second != committed_;
    });
    held_.erase(oldest);
  }
  return Prepared::kReady;
}

EpochKeeper::Committed EpochKeeper::Commit(uint64_t plan, Epoch epoch) {
  if (prepared_ != nullptr && prepared_->plan == plan && prepared_->epoch == epoch) {
    committed_ = std::exchange(prepared_, nullptr);
    DropBelowFloor();
    return Committed::kCommitted;
  }
  const auto known = held_.find(epoch);
  if (known != held_.end() && known->second->plan == plan) return Committed::kCommitted;
  return Committed::kUnknown;
}

void EpochKeeper::Abort(uint64_t plan) {
  if (prepared_ == nullptr || prepared_->plan != plan) return;
  held_.erase(prepared_->epoch);
  prepared_ = nullptr;
}

void EpochKeeper::Release(Epoch below) {
  floor_ = std::max(floor_, below);
  DropBelowFloor();
}

bool EpochKeeper::AdoptAtStep() {
  if (adopted_ == committed_) return false;
  adopted_ = committed_;
  DropBelowFloor();
  return true;
}

// What the home steps by, and will step by, stays: others may not use it, the home itself does.
void EpochKeeper::DropBelowFloor() {
  std::erase_if(held_, [&](const auto& one) {
    return one.first < floor_ && one.second != adopted_ && one.second != committed_;
  });
}

EpochKeeper::Verdict EpochKeeper::Judge(Epoch epoch, uint64_t plan, ExpertId expert) const {
  const Placement* const placement = Served(epoch, plan);
  if (placement == nullptr) return Verdict::kWrongEpoch;
  const int32_t self = IndexOf(*placement, worker_).value_or(-1);
  return Owns(*placement, self, expert) ? Verdict::kServe : Verdict::kNotOwned;
}

const Placement* EpochKeeper::Served(Epoch epoch, uint64_t plan) const {
  if (epoch < floor_) return nullptr;
  const auto found = held_.find(epoch);
  if (found == held_.end() || found->second->plan != plan) return nullptr;
  return found->second.get();
}

std::vector<EpochKeeper::Shared> EpochKeeper::All() const {
  std::vector<Shared> all;
  for (const auto& [epoch, placement] : held_) all.push_back(placement);
  return all;
}

std::vector<ExpertId> EpochKeeper::Needed() const { return NeededBut(nullptr); }

std::vector<ExpertId> EpochKeeper::Staged() const {
  if (prepared_ == nullptr) return {};
  const std::vector<ExpertId> all = Needed();
  const std::vector<ExpertId> rest = NeededBut(prepared_.get());
  std::vector<ExpertId> staged;
  std::set_difference(all.begin(), all.end(), rest.begin(), rest.end(), std::back_inserter(staged));
  return staged;
}

std::vector<ExpertId> EpochKeeper::NeededBut(const Placement* without) const {
  std::set<ExpertId> needed;
  for (const auto& [epoch, placement] : held_) {
    if (placement.get() == without) continue;
    const std::vector<ExpertId> owned = OwnedBy(*placement, worker_);
    needed.insert(owned.begin(), owned.end());
  }
  return {needed.begin(), needed.end()};
}

}  // namespace conclave::scheduler
