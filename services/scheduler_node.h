#pragma once
// A whole scheduler: its gRPC face, durable state and metrics, wired together. What
// conclave-scheduler runs, and what tests run in one process with workers.

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cluster_service.h"
#include "services/credentials.h"
#include "services/failpoint.h"
#include "services/flags.h"
#include "services/metrics.h"
#include "services/server.h"

namespace conclave::services {

class SchedulerNode {
 public:
  struct Options {
    std::string state;                    // directory of the durable state
    int64_t prepare_ms = 30'000;          // for workers to get ready for a placement
    int64_t adapter_turn_ms = 2'000;      // of those that take turns in memory
    std::string advertise;                // HOST:PORT told to others; empty: where it listens
    std::string metrics = "127.0.0.1:0";  // empty: none
    std::string placement;                // Plan JSON of the first placement; empty: contiguous
    Server::Options server;
    ClusterService::Options service;
    Credentials::Options credentials;
    std::vector<std::string> failpoints;
  };
  static void AddFlags(Flags& flags, Options& options);

  // Fails with what went wrong, by name.
  static absl::StatusOr<std::unique_ptr<SchedulerNode>> Start(const Options& options);

  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return metrics_address_; }  // "-": none
  ClusterService& service() { return *service_; }

  // Ends the watches and the calls that run; what is left after the bound is cut off, and nothing
  // is lost by that.
  absl::Status Drain(std::chrono::milliseconds bound);

 private:
  SchedulerNode() = default;
  absl::Status StartMetrics(const Options& options);

  Failpoints failpoints_;
  Credentials credentials_;
  std::string address_;
  std::string metrics_address_ = "-";
  // Each uses those before it, and ends before them.
  std::unique_ptr<ClusterService> service_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Metrics> metrics_;
};

}  // namespace conclave::services
