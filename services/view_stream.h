#pragma once
// The scheduler's end of one Watch: a stream that tells views of the cluster. A watcher that reads
// slowly skips views and gets the latest; nothing queues. Shared by gRPC, until it is done with it,
// and by who has views to tell. Any thread.

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "conclave/v1/cluster.pb.h"

namespace conclave::services {

class ViewStream : public grpc::ServerWriteReactor<v1::ClusterView>,
                   public std::enable_shared_from_this<ViewStream> {
 public:
  // Called once, when gRPC lets go of the stream.
  using OnGone = std::function<void(const std::shared_ptr<ViewStream>&)>;
  explicit ViewStream(OnGone on_gone) : on_gone_(std::move(on_gone)) {}

  // One that ends before it begins; owns itself.
  static grpc::ServerWriteReactor<v1::ClusterView>* Refused(const absl::Status& status);

  void Tell(std::shared_ptr<const v1::ClusterView> view);
  // UNAVAILABLE, once what is being told is told.
  void Close();

 private:
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { on_gone_(shared_from_this()); }

  // Under mutex_.
  void Next();
  void End(const grpc::Status& status);

  const OnGone on_gone_;
  std::mutex mutex_;                                // guards what follows
  std::shared_ptr<const v1::ClusterView> latest_;   // not yet written; null: none
  std::shared_ptr<const v1::ClusterView> writing_;  // in flight; null: none
  bool closing_ = false;
  bool finished_ = false;
};

}  // namespace conclave::services
