#pragma once
// A worker among others: what it knows of placements and peers, its side as an owner and its side
// as a home, and the transport between them. The engine steps with exchange(); the cluster's
// changes come by Prepare, Commit, Abort, Release and SetPeers, and take effect between two steps.
//
// Without a placement the worker computes every expert itself and serves nobody.
//
// Threads: BeginStep, exchange() and AwaitChange are the engine thread's; all else any.

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/epoch_keeper.h"
#include "scheduler/placement.h"
#include "worker/experts/adapter_store.h"
#include "worker/experts/expert_server.h"
#include "worker/experts/expert_store.h"
#include "worker/experts/peer_exchange.h"
#include "worker/experts/transport.h"
#include "worker/model/model.h"

namespace conclave::worker {

class ExpertHost final : private FrameSink {
 public:
  struct Options {
    std::string id;  // of this worker; empty: it is alone
    // Nothing is computed before there is a placement: the model was loaded without its experts.
    bool needs_placement = false;
    // The same for all workers of a cluster.
    Returns returns = Returns::kRows;
    PeerExchange::Options exchange;
    ExpertServer::Options server;
    scheduler::EpochKeeper::Options epochs;
    scheduler::PlacementLimits placement;
    ExpertStore::Options store;
    AdapterStore::Options adapters;
  };

  // transport: null for a worker that is alone. Model and device outlive it; if there is a
  // transport, the device is one that several threads may use.
  ExpertHost(const Options& options, const FrameLimits& limits, const Model& model, Device& device,
             std::unique_ptr<Transport> transport);
  ~ExpertHost() override;

  // Gets ready to serve a placement and to step by it: holds its experts, which may take as long as
  // reading or fetching them. OK: its plan may be acknowledged. INVALID_ARGUMENT: it is none, or
  // not of this model; FAILED_PRECONDITION: it comes too late; or what holding an expert came to.
  // One at a time.
  absl::Status Prepare(std::shared_ptr<const scheduler::Placement> placement);
  // Likewise, of one that is committed whether this worker can or not, as after a death. If it is
  // of the placement it does without versions of adapters that it cannot hold; those it lacks.
  absl::Status PrepareCommitted(std::shared_ptr<const scheduler::Placement> placement);
  // NOT_FOUND: it is not prepared here.
  absl::Status Commit(uint64_t plan, scheduler::Epoch epoch);
  void Abort(uint64_t plan);
  void Release(scheduler::Epoch below);
  // Who else there is, whole; this worker itself may be among them.
  void SetPeers(const std::vector<Peer>& peers);

  // Of the placement the home steps by; 0: none.
  scheduler::Epoch adopted() const;
  uint64_t prepared_plan() const;
  // Versions that this worker lacks experts of in what is committed, and why.
  AdapterStore::Lacks Lacks() const;
  // Why no row of a version may be computed for this home by what it steps by; empty: it may.
  std::string WhyLacks(const std::string& digest) const;
  // The version, and why, for want of which the exchange's last Dispatch could not be combined: its
  // owner lacks it. The engine thread.
  struct Lacking {
    std::string digest, why;
  };
  std::optional<Lacking> LackingOwner() const;
  // The latest that was committed; null: none yet.
  std::shared_ptr<const scheduler::Placement> committed() const;
  // Peers that the cluster holds alive and whose connection broke, until it is made again.
  std::vector<Peer> Lost() const;
  // Ids of peers that were late again and again, and are passed over for now.
  std::vector<std::string> Late() const;
  // Called, on some thread, when adopted() changed or a peer was lost; must not block. Once, at the
  // start.
  void OnNews(std::function<void()> callback);

  // The weights at hand; any thread may borrow.
  ExpertStore& store() { return store_; }

  // What is in an adapter's directory, as AdapterStore has it. Not while one is prepared.
  absl::StatusOr<AdapterCheck> CheckAdapter(const std::string& source) {
    return adapters_.Check(source);
  }

  // Takes what was committed, and returns it if it was: what the home steps by from now on. The
  // next step's number is its argument.
  std::shared_ptr<const scheduler::Placement> BeginStep(uint64_t step);
  // Of a shared expert of what the home steps by.
  const FfnWeights& SharedWeights(scheduler::ExpertId expert) const;
  Exchange& exchange() { return exchange_; }
  // Any thread: no step waits for a peer any more.
  void Close() { exchange_.Close(); }
  void AwaitChange(std::chrono::microseconds longest) { exchange_.AwaitChange(longest); }
  void Ring() { exchange_.Ring(); }

  struct Stats {
    scheduler::Epoch epoch = 0;
    size_t owned = 0;   // experts of the adopted placement; all without one
    size_t held = 0;    // placements
    int32_t peers = 0;  // connected
    ExpertServer::Stats server;
    PeerExchange::Stats exchange;
    Transport::Stats transport;
    ExpertStore::Stats store;
    AdapterStore::Stats adapters;
  };
  Stats stats() const;
  // Ids of the experts that are this worker's own in the adopted placement; all without one.
  std::vector<scheduler::ExpertId> Owned() const;

 private:
  void OnFrame(PeerIndex from, const FrameHeader& header, FrameBody body) override;
  void OnDown(PeerIndex peer) override;
  void OnUp(PeerIndex peer) override;
  Refusal Judge(PeerIndex from, const FrameHeader& header,
                std::span<const FrameRoute> routes) const;

  absl::Status Prepare(std::shared_ptr<const scheduler::Placement> placement, bool committed);
  absl::StatusOr<AdapterStore::Lacks> HoldAll(const scheduler::Placement& placement,
                                              bool committed);
  absl::Status CheckIdsOfLacks(const scheduler::Placement& placement) const;
  void DropUnneeded();
  void ForgetLacks();

  struct Known {
    Peer peer;
    PeerIndex index = -1;
  };

  std::atomic<uint64_t> busy_ = 0;  // steps begun and frames heard: what others are not to delay
  const Options options_;
  const size_t experts_;
  ExpertStore store_;
  AdapterStore adapters_;
  const std::unique_ptr<Transport> transport_;

  mutable std::mutex mutex_;  // guards what follows
  scheduler::EpochKeeper epochs_;
  std::map<std::string, Known> peers_;  // by worker id
  std::vector<uint8_t> dead_;           // [peer index] as the cluster says
  std::vector<uint8_t> down_;           // [peer index] was connected and is not
  std::set<scheduler::ExpertId> held_;  // of the base, by prepared placements
  // By plan, of the placements that are held: what could not be had.
  std::map<uint64_t, AdapterStore::Lacks> lacks_;
  std::function<void()> on_news_;

  ExpertServer server_;
  PeerExchange exchange_;
};

}  // namespace conclave::worker
