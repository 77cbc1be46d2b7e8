#pragma once
// A worker's side of placements: does what the scheduler's views say, and keeps what the worker's
// beats report of that. The views may come late, skip some, or come again after a lost stream; each
// is followed as it is, whatever was seen before.
//
// Threads: Follow one at a time (the watch's); Report and followed from any.

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "scheduler/placement.h"
#include "worker/experts/adapter_check.h"
#include "worker/experts/transport.h"

namespace conclave::services {

// What holds placements: the worker's engine.
class PlacementHolder {
 public:
  virtual ~PlacementHolder() = default;
  // OK: it can serve the placement and step by it. FAILED_PRECONDITION: it comes too late.
  virtual absl::Status Prepare(std::shared_ptr<const scheduler::Placement> placement) = 0;
  // Likewise, but for what it Lacks() then.
  virtual absl::Status PrepareCommitted(std::shared_ptr<const scheduler::Placement> placement) = 0;
  // Of what is prepared; taken at the next step.
  virtual absl::Status Commit(uint64_t plan, scheduler::Epoch epoch) = 0;
  virtual void Abort(uint64_t plan) = 0;
  virtual void Release(scheduler::Epoch below) = 0;
  // Who else there is, whole.
  virtual void SetPeers(const std::vector<worker::Peer>& peers) = 0;
  // Of the placement it steps by; 0: none.
  virtual scheduler::Epoch adopted() const = 0;
  // Opens and verifies the directory of an adapter, and keeps nothing of it. May take its time;
  // another thread than the one that follows. INVALID_ARGUMENT, NOT_FOUND and others: by file and
  // tensor.
  virtual absl::StatusOr<worker::AdapterCheck> CheckAdapter(const std::string& source) = 0;
  // Versions of adapters, by digest, whose experts it lacks in what is committed, and why; any
  // thread.
  virtual std::map<std::string, std::string> Lacks() const = 0;
  // Digests of the versions of adapters that its sequences hold, each once; any thread.
  virtual std::vector<std::string> AdaptersInUse() const = 0;
};

class PlacementFollower {
 public:
  // self: this worker's id. The holder outlives the follower.
  PlacementFollower(std::string self, PlacementHolder& holder);

  // True if there is something to report at once.
  bool Follow(const v1::ClusterView& view);

  // Whether what is committed is followed; if not, the view should be followed again. The thread of
  // Follow.
  bool current() const { return failed_.empty(); }

  v1::PlacementReport Report() const;
  // Version of the view that was followed last, as far as it could be; 0: none.
  uint64_t followed() const { return followed_; }

 private:
  void FollowPeers(const v1::ClusterView& view);
  void FollowCommitted(const v1::Placement& committed);
  bool FollowPrepared(const v1::ClusterView& view);
  absl::Status Prepare(const v1::Placement& placement, bool committed);

  const std::string self_;
  PlacementHolder& holder_;
  // Following thread.
  std::vector<worker::Peer> peers_;
  uint64_t committed_ = 0;  // plan
  uint64_t prepared_ = 0;   // plan; neither committed nor aborted
  std::string failed_;      // why what is committed is not followed; as logged

  std::atomic<uint64_t> followed_{0};
  mutable std::mutex mutex_;  // guards what follows
  v1::PlacementReport report_;
};

}  // namespace conclave::services
