#include "tests/cluster/test_watch.h"

#include "services/channel.h"

namespace conclave::services::testing {

TestWatch::TestWatch(const std::string& scheduler)
    : stub_(v1::Cluster::NewStub(MakeChannel(scheduler, Credentials()))) {
  context_.set_wait_for_ready(true);
  v1::WatchRequest request;
  request.set_watcher("test");
  stream_ = stub_->Watch(&context_, request);
}

TestWatch::~TestWatch() { context_.TryCancel(); }

std::optional<v1::ClusterView> TestWatch::WaitFor(
    const std::function<bool(const v1::ClusterView&)>& fits) {
  v1::ClusterView view;
  while (stream_->Read(&view)) {
    if (fits(view)) return view;
  }
  return std::nullopt;
}

std::optional<v1::ClusterView> TestWatch::WaitForState(const std::string& worker,
                                                       v1::WorkerState state) {
  return WaitFor([&](const v1::ClusterView& view) {
    for (const v1::WorkerInfo& info : view.workers()) {
      if (info.id() == worker && info.state() == state) return true;
    }
    return false;
  });
}

grpc::Status TestWatch::WaitForStatus() {
  v1::ClusterView view;
  while (stream_->Read(&view)) {
  }
  return stream_->Finish();
}

}  // namespace conclave::services::testing
