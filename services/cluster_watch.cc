#include "services/cluster_watch.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "services/log.h"

namespace conclave::services {

// A thread of its own reads the stream: views are rare, and what takes them may take its time.
class ClusterWatch::Impl {
 public:
  Impl(const Options& options, const std::shared_ptr<grpc::Channel>& scheduler,
       std::function<void(const v1::ClusterView&)> on_view)
      : options_(options),
        stub_(v1::Cluster::NewStub(scheduler)),
        on_view_(std::move(on_view)),
        thread_([this] { Run(); }) {}

  ~Impl() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      if (context_ != nullptr) context_->TryCancel();
    }
    stop_.notify_all();
    thread_.join();
  }

  bool connected() const {
    std::lock_guard lock(mutex_);
    return connected_;
  }

 private:
  void Run() {
    auto backoff = options_.backoff_min;
    while (true) {
      const bool heard = WatchOnce();
      if (heard) backoff = options_.backoff_min;
      std::unique_lock lock(mutex_);
      if (stop_.wait_for(lock, backoff, [this] { return stopping_; })) return;
      backoff = std::min(backoff * 2, options_.backoff_max);
    }
  }

  // One stream from its opening to its end; whether it brought a view.
  bool WatchOnce() {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return false;
      context_ = &context;
    }
    v1::WatchRequest request;
    request.set_watcher(options_.watcher);
    const std::unique_ptr<grpc::ClientReader<v1::ClusterView>> reader =
        stub_->Watch(&context, request);
    v1::ClusterView view;
    bool heard = false;
    while (reader->Read(&view)) {
      if (!std::exchange(heard, true)) LogInfo("the scheduler's view arrives");
      SetConnected(true);
      on_view_(view);
    }
    const grpc::Status status = reader->Finish();
    std::lock_guard lock(mutex_);
    context_ = nullptr;
    connected_ = false;
    if (heard && !stopping_) {
      LogWarning("the scheduler is lost: %s; the last view stays in force", status.error_message());
    }
    return heard;
  }

  void SetConnected(bool connected) {
    std::lock_guard lock(mutex_);
    connected_ = connected;
  }

  const Options options_;
  const std::unique_ptr<v1::Cluster::Stub> stub_;
  const std::function<void(const v1::ClusterView&)> on_view_;

  mutable std::mutex mutex_;
  std::condition_variable stop_;
  grpc::ClientContext* context_ = nullptr;
  bool connected_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

ClusterWatch::ClusterWatch(const Options& options, const std::shared_ptr<grpc::Channel>& scheduler,
                           std::function<void(const v1::ClusterView&)> on_view)
    : impl_(std::make_unique<Impl>(options, scheduler, std::move(on_view))) {}
ClusterWatch::~ClusterWatch() = default;
bool ClusterWatch::connected() const { return impl_->connected(); }

}  // namespace conclave::services
