#pragma once
// A whole cluster on this machine: scheduler, workers and routers as child processes of one
// supervisor. It starts them, learns their ports, says when requests will be answered, restarts
// what must not stay dead, and ends them in the order that loses nothing: routers, workers,
// scheduler. One thread, which must be the one that lives as long as the process.

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/cluster.pb.h"
#include "services/child.h"
#include "services/shutdown.h"
#include "services/state_directory.h"

namespace conclave::services {

class Up {
 public:
  static constexpr int32_t kMaxRouters = 32;  // a worker has 64 links, and routers come and go
  struct Options {
    std::string binaries;   // directory of conclave-router, conclave-scheduler, conclave-worker
    std::string model;      // directory
    int32_t workers = 1;    // the experts are spread over them if there are several, or a placement
    std::string placement;  // Plan JSON; empty: none
    std::vector<v1::AddAdapterRequest> adapters;  // served before `ready` is said
    int32_t routers = 1;                          // any of them serves any client
    std::string state;  // directory, kept; empty: a temporary one, removed by Run
    // Of the first router; the others are at any free ports of the same hosts.
    std::string grpc = "127.0.0.1:0";
    std::string metrics = "127.0.0.1:0";
    bool restart_workers = false;
    std::vector<std::string> scheduler_flags, worker_flags, router_flags;  // passed on
    std::chrono::milliseconds ready_wait{60'000};   // until everything answers
    std::chrono::milliseconds drain_wait{130'000};  // of a process; it is killed after that
    std::chrono::milliseconds give_up_wait{5'000};  // of all that was started, if never ready
    std::chrono::milliseconds min_backoff{100};     // before a restart, doubling with each to
    std::chrono::milliseconds max_backoff{5'000};
    std::chrono::milliseconds stable_after{10'000};  // alive so long, the next backoff is the least
  };

  // `out` gets the one line that says "ready"; `err` what the processes say and what becomes of
  // them.
  Up(const Options& options, std::ostream& out, std::ostream& err);
  ~Up();

  // Runs until `shutdown` is asked for. OK: everything ended as it should. FAILED_PRECONDITION: the
  // state directory is in use. UNAVAILABLE, DEADLINE_EXCEEDED: a process did not become ready, or
  // did not end well.
  absl::Status Run(Shutdown& shutdown);

 private:
  using Clock = std::chrono::steady_clock;
  struct Process;

  absl::Status StartAll();
  absl::Status WaitUntilReady();
  absl::Status AddAdapters();
  void SayReady();
  void Supervise();
  absl::Status Drain();
  void AskToEnd(Process& process);
  absl::Status AwaitEnd(Process& process, Clock::time_point deadline);
  void EndAll();

  absl::Status Launch(Process& process);
  std::vector<std::string> ArgumentsOf(const Process& process) const;
  std::vector<std::string> WorkerArguments(const Process& worker) const;
  std::vector<std::string> RouterArguments(const Process& router) const;
  bool Placed() const { return options_.workers > 1 || !options_.placement.empty(); }
  std::vector<Process*> All() const;  // in the order they start in
  // Waits until something happens, at most so long, and takes notice of it.
  void Pump(std::chrono::milliseconds longest);
  void Forward(Process& process);
  void NoticeStop(Process& process);
  void NoticeEnd(Process& process);
  void RestartWhatIsDue();
  // Pumps until `process` has said where it listens.
  absl::Status AwaitListening(Process& process);
  // Why it is not ready yet; DEADLINE_EXCEEDED says so.
  absl::Status StillStarting(const std::string& missing) const;
  // What this router has not got yet of what makes it ready; empty: nothing.
  std::string MissingOf(const std::shared_ptr<grpc::Channel>& router) const;
  bool stopping() const;
  void Say(const std::string& message);

  const Options options_;
  std::ostream& out_;
  std::ostream& err_;
  Shutdown* shutdown_ = nullptr;
  Clock::time_point ready_by_;
  bool ready_ = false;
  bool draining_ = false;
  std::unique_ptr<StateDirectory> state_;
  std::unique_ptr<Process> scheduler_;
  std::vector<std::unique_ptr<Process>> workers_;
  std::vector<std::unique_ptr<Process>> routers_;
};

}  // namespace conclave::services
