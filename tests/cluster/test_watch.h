#pragma once
// A watcher of the cluster's view, as bare as can be: remembers the latest view and waits for one
// that fits.

#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "conclave/v1/cluster.grpc.pb.h"

namespace conclave::services::testing {

class TestWatch {
 public:
  explicit TestWatch(const std::string& scheduler);
  ~TestWatch();

  // Reads views until one fits; nullopt if the stream ends first.
  std::optional<v1::ClusterView> WaitFor(const std::function<bool(const v1::ClusterView&)>& fits);
  // The same, for a worker in a state.
  std::optional<v1::ClusterView> WaitForState(const std::string& worker, v1::WorkerState state);
  // Reads to the end of the stream.
  grpc::Status WaitForStatus();

 private:
  std::unique_ptr<v1::Cluster::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::ClusterView>> stream_;
};

}  // namespace conclave::services::testing
