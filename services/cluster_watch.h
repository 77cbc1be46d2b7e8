#pragma once
// A router's or worker's ear at the scheduler: one Watch stream, opened again whenever it ends.
// While there is none nothing is told, so the last view stays in force.

#include <grpcpp/channel.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "conclave/v1/cluster.grpc.pb.h"
#include "scheduler/types.h"

namespace conclave::services {

class ClusterWatch {
 public:
  struct Options {
    std::string watcher;  // this process, for the scheduler's log
    std::chrono::milliseconds backoff_min{
        100};  // before a lost stream is opened again, doubling to
    std::chrono::milliseconds backoff_max{2000};
  };

  // Starts watching. on_view: one at a time, on a gRPC or an own thread; must not block for long.
  ClusterWatch(const Options& options, const std::shared_ptr<grpc::Channel>& scheduler,
               std::function<void(const v1::ClusterView&)> on_view);
  ~ClusterWatch();  // ends the stream; on_view is not running any more

  // Whether a stream has brought a view and not ended since.
  bool connected() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace conclave::services
