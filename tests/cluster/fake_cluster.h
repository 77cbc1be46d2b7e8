#pragma once
// A cluster in one process: the real scheduler and real workers, a tiny random checkpoint, real
// connections over 127.0.0.1. Good for what happens between processes; what a process does with its
// signals and exit codes it cannot show.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "services/scheduler_node.h"
#include "services/worker_node.h"
#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services::testing {

class FakeCluster {
 public:
  struct Options {
    int workers = 1;
    bool scheduler = true;
    worker::testing::TinyOptions model;
    WorkerNode::Options worker;         // model, id and scheduler are set here
    SchedulerNode::Options scheduling;  // state is set here
  };
  FakeCluster() : FakeCluster(Options{}) {}
  explicit FakeCluster(const Options& options);

  const std::string& model() const { return model_.path(); }
  worker::testing::TempDir& state() { return state_; }

  SchedulerNode& scheduler() { return *scheduler_; }
  const std::string& scheduler_address() const { return scheduler_address_; }
  // As a crash would: no watch is ended well, nothing is written any more.
  void KillScheduler();
  // Of its next start.
  SchedulerNode::Options& scheduling() { return options_.scheduling; }
  // On the same port and state. Aborts if it does not start.
  void StartScheduler();

  WorkerNode& worker(size_t i) { return *workers_.at(i); }
  // Starts one more, with its options edited; its index.
  size_t AddWorker(const std::function<void(WorkerNode::Options&)>& edit = nullptr);
  // What a refused start says, or OK; the worker is not kept.
  absl::Status TryWorker(WorkerNode::Options options);
  // Its sequences and streams break off.
  void KillWorker(size_t i) { workers_.at(i).reset(); }

 private:
  WorkerNode::Options WorkerOptions() const;

  Options options_;
  worker::testing::TempDir model_;
  worker::testing::TempDir state_;
  std::string scheduler_address_;
  std::unique_ptr<SchedulerNode> scheduler_;
  std::vector<std::unique_ptr<WorkerNode>> workers_;
};

}  // namespace conclave::services::testing
