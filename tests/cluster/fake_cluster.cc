#include "tests/cluster/fake_cluster.h"

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"

namespace conclave::services::testing {

FakeCluster::FakeCluster(const Options& options) : options_(options) {
  worker::testing::WriteTinyDeepSeekV2(model_.path(), /*seed=*/1, options_.model);
  if (options_.scheduler) StartScheduler();
  for (int i = 0; i < options_.workers; ++i) AddWorker();
}

void FakeCluster::StartScheduler() {
  SchedulerNode::Options options = options_.scheduling;
  options.state = state_.path();
  options.metrics.clear();
  if (!scheduler_address_.empty()) options.server.listen = scheduler_address_;
  auto node = SchedulerNode::Start(options);
  if (!node.ok()) std::fprintf(stderr, "%s\n", std::string(node.status().message()).c_str());
  CONCLAVE_CHECK(node.ok());
  scheduler_ = *std::move(node);
  scheduler_address_ = scheduler_->address();
}

void FakeCluster::KillScheduler() { scheduler_.reset(); }

WorkerNode::Options FakeCluster::WorkerOptions() const {
  WorkerNode::Options options = options_.worker;
  options.model = model_.path();
  options.id = absl::StrCat("worker-", workers_.size());
  options.scheduler = scheduler_address_;
  options.metrics.clear();
  if (options.threads == 0) options.threads = 1;
  return options;
}

size_t FakeCluster::AddWorker(const std::function<void(WorkerNode::Options&)>& edit) {
  WorkerNode::Options options = WorkerOptions();
  if (edit) edit(options);
  auto node = WorkerNode::Start(options, nullptr);
  if (!node.ok()) std::fprintf(stderr, "%s\n", std::string(node.status().message()).c_str());
  CONCLAVE_CHECK(node.ok());
  workers_.push_back(*std::move(node));
  return workers_.size() - 1;
}

absl::Status FakeCluster::TryWorker(WorkerNode::Options options) {
  return WorkerNode::Start(options, nullptr).status();
}

}  // namespace conclave::services::testing
