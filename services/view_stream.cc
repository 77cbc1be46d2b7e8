#include "services/view_stream.h"

#include <utility>

#include "services/grpc_status.h"

namespace conclave::services {
namespace {

class RefusedStream : public grpc::ServerWriteReactor<v1::ClusterView> {
 public:
  explicit RefusedStream(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerWriteReactor<v1::ClusterView>* ViewStream::Refused(const absl::Status& status) {
  return new RefusedStream(status);
}

void ViewStream::Tell(std::shared_ptr<const v1::ClusterView> view) {
  const std::lock_guard lock(mutex_);
  latest_ = std::move(view);
  Next();
}

void ViewStream::Close() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  Next();
}

void ViewStream::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_.reset();
  if (!ok) return End(grpc::Status(grpc::UNAVAILABLE, "the watcher is gone"));
  Next();
}

void ViewStream::OnCancel() {
  const std::lock_guard lock(mutex_);
  End(grpc::Status::CANCELLED);
}

void ViewStream::Next() {
  if (finished_ || writing_ != nullptr) return;
  if (closing_) return End(grpc::Status(grpc::UNAVAILABLE, "the scheduler is going away"));
  if (latest_ == nullptr) return;
  writing_ = std::exchange(latest_, nullptr);
  StartWrite(writing_.get());
}

void ViewStream::End(const grpc::Status& status) {
  if (!std::exchange(finished_, true)) Finish(status);
}

}  // namespace conclave::services
