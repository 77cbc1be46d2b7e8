#pragma once
// A whole router: frontend, its gRPC faces, heartbeat, watch of the cluster, metrics, wired
// together. What conclave-router runs, and what tests run in one process.

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cluster_watch.h"
#include "services/credentials.h"
#include "services/failpoint.h"
#include "services/flags.h"
#include "services/frontend.h"
#include "services/heartbeat.h"
#include "services/inference_service.h"
#include "services/metrics.h"
#include "services/router_cluster_service.h"
#include "services/server.h"

namespace conclave::services {

class RouterNode {
 public:
  struct Options {
    std::string model;      // checkpoint directory, for its tokenizer.json; without that file only
                            // token ids are served
    std::string tokenizer;  // directory with the tokenizer.json to use instead; it must be there
    std::string scheduler;  // HOST:PORT; empty: none
    std::vector<std::string> workers;     // HOST:PORT each, besides those the scheduler knows
    std::string advertise;                // HOST:PORT told to others; empty: where it listens
    std::string metrics = "127.0.0.1:0";  // empty: none
    int64_t stall_ms = 30'000;            // how long a client may read nothing
    int64_t adapter_wait_ms = 30'000;     // how long a request may wait for a place in memory
    router::AdapterNames::Options adapters;
    std::vector<std::string> adapter_weights;  // NAME=WEIGHT; what is not named has 1
    int32_t base_weight = 1;                   // of the base model
    Frontend::Options frontend;
    Server::Options server;
    Heartbeat::Options heartbeat;
    Credentials::Options credentials;
  };
  static void AddFlags(Flags& flags, Options& options);

  // Serves, not ready before a worker is. Fails with what went wrong, by name.
  static absl::StatusOr<std::unique_ptr<RouterNode>> Start(const Options& options);
  ~RouterNode();

  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return metrics_address_; }  // "-": none
  Frontend& frontend() { return *frontend_; }
  Heartbeat* heartbeat() { return heartbeat_.get(); }  // null without a scheduler
  ClusterWatch* watch() { return watch_.get(); }       // likewise

  // Accepts nothing new, says so, finishes what lives. DEADLINE_EXCEEDED if that takes longer than
  // `bound`; what is left is then cut off by the destructor.
  absl::Status Drain(std::chrono::milliseconds bound);

 private:
  explicit RouterNode(const Options& options) : options_(options) {}
  absl::Status StartFrontend();
  absl::Status StartServer();
  void StartReporting();

  Options options_;
  const Failpoints failpoints_;  // none
  Credentials credentials_;
  std::string address_;
  std::string metrics_address_ = "-";
  std::shared_ptr<grpc::Channel> scheduler_;
  // Each uses those before it, and ends before them.
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<InferenceService> inference_;
  std::unique_ptr<RouterClusterService> cluster_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Heartbeat> heartbeat_;
  std::unique_ptr<ClusterWatch> watch_;
};

}  // namespace conclave::services
