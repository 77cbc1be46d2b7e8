#include "services/heartbeat.h"

#include <utility>

#include "services/grpc_status.h"
#include "services/log.h"

namespace conclave::services {

Heartbeat::Heartbeat(const Options& options, std::shared_ptr<grpc::Channel> channel,
                     Describe describe, OnRefused on_refused, const Failpoints& failpoints)
    : options_(options),
      channel_(std::move(channel)),
      stub_(v1::Cluster::NewStub(channel_)),
      describe_(std::move(describe)),
      on_refused_(std::move(on_refused)),
      failpoints_(failpoints) {
  if (options_.period.count() > 0) thread_ = std::thread([this] { Run(); });
}

Heartbeat::~Heartbeat() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::Status Heartbeat::Step() {
  absl::Status status = failpoints_.Hit("worker.heartbeat");
  if (!status.ok()) return status;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.timeout);
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return absl::CancelledError("stopping");
    context_ = &context;
  }
  const v1::HeartbeatRequest request = describe_();
  v1::HeartbeatResponse response;
  status = FromGrpc(stub_->Heartbeat(&context, request, &response));
  {
    const std::lock_guard lock(mutex_);
    context_ = nullptr;
  }
  Note(status);
  return status;
}

void Heartbeat::BeatSoon() {
  {
    const std::lock_guard lock(mutex_);
    soon_ = true;
  }
  wake_.notify_all();
}

Heartbeat::Stats Heartbeat::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

// Counts, and logs what changed: a scheduler that stays away is one line, not one per beat.
void Heartbeat::Note(const absl::Status& status) {
  bool was_connected;
  {
    const std::lock_guard lock(mutex_);
    was_connected = std::exchange(stats_.connected, status.ok());
    ++(status.ok() ? stats_.beats : stats_.missed);
    if (stopping_) return;
  }
  if (status.ok()) {
    missed_because_.clear();
    if (!was_connected) LogInfo("the scheduler hears us");
  } else if (status.code() == absl::StatusCode::kFailedPrecondition) {
    if (std::exchange(refused_, true)) return;
    LogError("the cluster refuses this worker: %s", std::string(status.message()));
    if (on_refused_) on_refused_(status);
  } else if (missed_because_ != status.message()) {
    missed_because_ = std::string(status.message());
    LogWarning("not heard by the scheduler, serving goes on: %s", missed_because_);
  }
}

void Heartbeat::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    soon_ = false;
    lock.unlock();
    Step().IgnoreError();  // noted
    lock.lock();
    wake_.wait_for(lock, options_.period, [this] { return soon_ || stopping_; });
  }
}

}  // namespace conclave::services
