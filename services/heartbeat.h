#pragma once
// A worker's or router's voice: tells the scheduler every period that it is there, how loaded it
// is, and whether it drains. Serving does not depend on being heard; a scheduler that is away is
// tried again for as long as it takes.

#include <grpcpp/channel.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "conclave/v1/cluster.grpc.pb.h"
#include "services/failpoint.h"

namespace conclave::services {

class Heartbeat {
 public:
  struct Options {
    std::chrono::milliseconds period{150};    // 0: no thread, a test calls Step
    std::chrono::milliseconds timeout{1000};  // of one beat
  };
  // What to say, asked before every beat.
  using Describe = std::function<v1::HeartbeatRequest()>;
  // Called once, on the beating thread, if the cluster will not have this worker: it is of another
  // model or numerics, or a later incarnation of it was heard. A scheduler that answers UNAVAILABLE
  // does not know yet; the worker goes on beating. Never of a router.
  using OnRefused = std::function<void(const absl::Status&)>;

  Heartbeat(const Options& options, std::shared_ptr<grpc::Channel> channel, Describe describe,
            OnRefused on_refused, const Failpoints& failpoints);
  ~Heartbeat();

  // One beat. What the scheduler said, or why it could not be asked.
  absl::Status Step();
  // Beats now instead of at the end of the period; does not wait for it.
  void BeatSoon();

  struct Stats {
    bool connected = false;
    uint64_t beats = 0;
    uint64_t missed = 0;
  };
  Stats stats() const;

 private:
  void Run();
  void Note(const absl::Status& status);

  const Options options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Cluster::Stub> stub_;
  const Describe describe_;
  const OnRefused on_refused_;
  const Failpoints& failpoints_;
  // Beating thread.
  bool refused_ = false;
  std::string missed_because_;  // as logged

  mutable std::mutex mutex_;  // guards what follows
  Stats stats_;
  bool soon_ = false;
  bool stopping_ = false;
  grpc::ClientContext* context_ = nullptr;  // of the beat in flight
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace conclave::services
