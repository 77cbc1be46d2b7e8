#pragma once
// A whole worker: engine, its gRPC face, heartbeat, watch of the cluster, metrics, wired together.
// What conclave-worker runs, and what tests run many of in one process.

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/adapter_checker.h"
#include "services/cluster_watch.h"
#include "services/credentials.h"
#include "services/exchange/peer_transport.h"
#include "services/expert_fetcher.h"
#include "services/failpoint.h"
#include "services/flags.h"
#include "services/heartbeat.h"
#include "services/metrics.h"
#include "services/placement_follower.h"
#include "services/server.h"
#include "services/view_inbox.h"
#include "services/worker_service.h"
#include "worker/engine.h"

namespace conclave::services {

// "rows" or "sums"; INVALID_ARGUMENT: neither.
absl::StatusOr<worker::Returns> ParseReturns(const std::string& text);

// "stored", which is nothing, or what matrices are packed as; INVALID_ARGUMENT, naming the flag:
// neither.
absl::StatusOr<std::optional<worker::DType>> ParseWeights(const std::string& flag,
                                                          const std::string& text);

class WorkerNode {
 public:
  struct Options {
    std::string model;                     // directory of the checkpoint
    std::string id;                        // empty: this machine's name
    std::string state;                     // directory that remembers the incarnation; empty: none
    std::string advertise;                 // HOST:PORT told to others; empty: where it listens
    std::string scheduler;                 // HOST:PORT; empty: none
    std::string metrics = "127.0.0.1:0";   // empty: none
    int32_t threads = 0;                   // that compute; 0: one per CPU
    std::string numerics;                  // dispatch level; empty: the best this CPU has
    std::string weights = "stored";        // what experts are held as: that, or packed
    std::string dense_weights = "stored";  // likewise other matrices
    bool placed = false;                   // holds only the experts a placement gives it
    // Experts that the checkpoint lacks come from other workers; implies placed.
    bool fetch_experts = false;
    ExpertFetcher::Options fetch;
    int64_t fetch_wait_ms = 60'000;  // at the start, for somebody who has them
    std::string returns = "rows";    // what owners return of rows: rows, or their sums
    std::string exchange = "auto";   // what carries rows to other workers: tcp, shm or auto
    std::string exchange_listen;     // HOST:PORT; empty: where routers connect, any port
    std::string exchange_advertise;  // HOST:PORT told to other workers; empty: where it listens
    int64_t gather_us = 20000;
    int64_t late_us = 2000;
    // Memory for weights that cannot be used as the checkpoint has them.
    int64_t converted_bytes = worker::ModelOptions().converted_bytes;
    worker::Engine::Options engine;
    Server::Options server{.receive_bytes = 16 << 20};
    WorkerService::Options service;
    Heartbeat::Options heartbeat;
    Credentials::Options credentials;
    std::vector<std::string> failpoints;
  };
  static void AddFlags(Flags& flags, Options& options);
  // What is wrong with options by themselves, by the flag's name; before anything is started.
  static absl::Status Check(const Options& options);

  // Loads the model and serves it. Fails with what went wrong, by name.
  static absl::StatusOr<std::unique_ptr<WorkerNode>> Start(const Options& options,
                                                           Heartbeat::OnRefused on_refused);
  ~WorkerNode();

  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return metrics_address_; }  // "-": none
  const std::string& id() const { return options_.id; }

  // Accepts nothing new, tells everybody, finishes what it has and ends its streams.
  // DEADLINE_EXCEEDED if that takes longer than `bound`; what is left is then cancelled by the
  // destructor.
  absl::Status Drain(std::chrono::milliseconds bound);

  worker::Engine& engine() { return *engine_; }
  WorkerService& service() { return *service_; }
  ExpertFetcher* fetcher() { return fetcher_.get(); }  // null unless it fetches
  Heartbeat* heartbeat() { return heartbeat_.get(); }  // null without a scheduler
  ClusterWatch* watch() { return watch_.get(); }       // likewise
  // Of the placement this worker steps by; any thread.
  uint64_t epoch() const { return holder_->adopted(); }

 private:
  explicit WorkerNode(const Options& options) : options_(options) {}
  absl::Status StartEngine();
  absl::StatusOr<std::shared_ptr<const worker::Model>> LoadModel();
  absl::StatusOr<std::unique_ptr<PeerTransport>> MakeTransport(const worker::ModelSpec& spec,
                                                               const worker::Device& device) const;
  absl::Status StartService();
  absl::StatusOr<std::string> AdvertisedExchange() const;
  absl::Status StartMetrics();
  absl::Status StartReporting(Heartbeat::OnRefused on_refused);
  void Hear(const v1::ClusterView& view);
  bool Follow(const v1::ClusterView& view);
  v1::WorkerInfo Describe() const;
  v1::HeartbeatRequest Beat() const;

  Options options_;
  Failpoints failpoints_;
  Credentials credentials_;
  std::string address_;
  std::string exchange_address_;  // empty: none
  std::string metrics_address_ = "-";
  std::atomic<bool> draining_{false};
  // Each uses those before it, and ends before them.
  std::unique_ptr<ExpertFetcher> fetcher_;  // null: the checkpoint at hand has to do
  std::unique_ptr<worker::Engine> engine_;
  PeerTransport* transport_ = nullptr;  // the engine's; null without a scheduler
  std::unique_ptr<PlacementHolder> holder_;
  std::unique_ptr<PlacementFollower> follower_;
  std::unique_ptr<AdapterChecker> checker_;
  std::unique_ptr<WorkerService> service_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Heartbeat> heartbeat_;  // shared with the engine's callback
  std::unique_ptr<ViewInbox> inbox_;
  std::unique_ptr<ClusterWatch> watch_;
  std::unique_ptr<Metrics> metrics_;
};

}  // namespace conclave::services
