#include "services/placement_follower.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "services/convert_placement.h"
#include "services/log.h"
#include "worker/status.h"

namespace conclave::services {

PlacementFollower::PlacementFollower(std::string self, PlacementHolder& holder)
    : self_(std::move(self)), holder_(holder) {}

// Peers before placements, which speak of them; what is committed before what is prepared, as it
// may be what was; what is released in between, so that little is held at once.
bool PlacementFollower::Follow(const v1::ClusterView& view) {
  FollowPeers(view);
  if (view.has_placement()) FollowCommitted(view.placement());
  holder_.Release(view.released());
  const bool news = FollowPrepared(view);
  return followed_.exchange(view.version()) != view.version() || news;
}

void PlacementFollower::FollowPeers(const v1::ClusterView& view) {
  std::vector<worker::Peer> peers;
  for (const v1::WorkerInfo& worker : view.workers()) {
    if (worker.id() == self_ || worker.exchange_address().empty()) continue;
    peers.push_back({.id = worker.id(),
                     .incarnation = worker.incarnation(),
                     .address = worker.exchange_address(),
                     .alive = worker.state() != v1::WORKER_STATE_DEAD && !worker.fenced()});
  }
  if (peers == peers_) return;
  peers_ = std::move(peers);
  holder_.SetPeers(peers_);
}

// Epochs only grow. A scheduler that lost its state counts anew; what it says of the placement is
// older than what is served here.
void PlacementFollower::FollowCommitted(const v1::Placement& committed) {
  if (committed.plan() == committed_) return;
  if (committed.epoch() < holder_.adopted()) {
    failed_.clear();
    LogWarning("the scheduler tells epoch %d after %d: not adopted", committed.epoch(),
               holder_.adopted());
    return;
  }
  absl::Status status = Prepare(committed, /*committed=*/true);
  if (status.ok()) status = holder_.Commit(committed.plan(), committed.epoch());
  if (!status.ok()) {
    const std::string failed = absl::StrFormat("epoch %d cannot be adopted: %s", committed.epoch(),
                                               std::string(status.message()));
    if (failed != failed_) LogError("%s", failed);
    failed_ = failed;
    return;
  }
  failed_.clear();
  committed_ = committed.plan();
  if (prepared_ == committed_) prepared_ = 0;
  LogInfo("epoch %d", committed.epoch());
  for (const auto& [digest, why] : holder_.Lacks()) {
    LogError("epoch %d: without version %s of an adapter: %s", committed.epoch(), digest, why);
  }
}

bool PlacementFollower::FollowPrepared(const v1::ClusterView& view) {
  const uint64_t plan = view.prepared().plan();
  if (prepared_ != 0 && prepared_ != plan) holder_.Abort(prepared_);
  if (plan == 0) {
    prepared_ = 0;
    return false;
  }
  const absl::Status status = Prepare(view.prepared(), /*committed=*/false);
  prepared_ = status.ok() ? plan : 0;
  v1::PlacementReport report;
  if (status.ok()) {
    report.set_acknowledged(plan);
  } else {
    report.set_refused(plan);
    report.set_code(status.raw_code());
    report.set_why(std::string(status.message()));
  }
  const std::lock_guard lock(mutex_);
  const bool news =
      report.acknowledged() != report_.acknowledged() || report.refused() != report_.refused();
  report_ = std::move(report);
  return news;
}

absl::Status PlacementFollower::Prepare(const v1::Placement& message, bool committed) {
  CONCLAVE_ASSIGN_OR_RETURN(scheduler::Placement read, FromProto(message));
  auto placement = std::make_shared<const scheduler::Placement>(std::move(read));
  return committed ? holder_.PrepareCommitted(std::move(placement))
                   : holder_.Prepare(std::move(placement));
}

v1::PlacementReport PlacementFollower::Report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

}  // namespace conclave::services
