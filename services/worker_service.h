#pragma once
// A worker's engine over gRPC: one stream per router carries all its sequences (worker.proto). A
// step's events travel in one message; while a write is in flight the next ones gather and go
// together. A router that does not read loses its stream once `outbound_bytes` wait for it, and its
// sequences end; the others notice nothing.
//
// Routers submit what they were granted (scheduler/credit_rule.h). The grants are looked at again
// after a step that makes room and after sequences that take it, and a router that is short is told
// at once.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "conclave/v1/worker.grpc.pb.h"
#include "scheduler/credit_rule.h"
#include "services/authorize.h"
#include "services/expert_giver.h"
#include "services/failpoint.h"
#include "worker/engine.h"

namespace conclave::services {

class WorkerService : public v1::Worker::CallbackService {
 public:
  struct Options {
    std::string worker_id;
    uint64_t incarnation = 0;
    size_t outbound_bytes = 8 << 20;  // waiting for one router
    int32_t max_links = 64;           // routers at once
    // How long a router that leaves has to read what is being written to it; looked at by Step.
    std::chrono::milliseconds last_message{1000};
    // How often links are told the worker's load when it changed; 0: no thread, a test calls Step.
    std::chrono::milliseconds load_period{100};
    // How often links hear something, be it the same load, so that silence means something.
    std::chrono::milliseconds pulse{200};
    // How long a router has to say, after a drain was announced, that it still has sequences for
    // this worker; who says nothing has none.
    std::chrono::milliseconds leftovers_answer{1000};
    scheduler::CreditRule::Options credit;
    ExpertGiver::Options experts;
  };

  // Engine and failpoints outlive the service; the service outlives its server.
  WorkerService(const Options& options, worker::Engine& engine, Authorize authorize,
                const Failpoints& failpoints);
  ~WorkerService() override;

  grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker>* Serve(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<v1::ExpertChunk>* FetchExpert(
      grpc::CallbackServerContext* context, const v1::FetchExpertRequest* request) override;

  // Tells every link the load and the orphans if they changed, or if it has not been told for the
  // time of a pulse. Cuts those whose routers left and do not read.
  void Step();
  // Before the engine drains: tells every router that this worker does, and waits until each has
  // submitted what it had already admitted and could give to nobody else. False if `end` comes
  // first. Blocks; one call.
  bool TakeLeftovers(std::chrono::steady_clock::time_point end);
  // Ends every stream once what waits for it is written. After the engine has drained; new streams
  // are refused.
  void CloseLinks();
  // Until there are no links, for so long at most; whether there are none.
  bool WaitClosed(std::chrono::milliseconds timeout);

  struct Stats {
    int32_t links = 0;
    uint64_t links_cut = 0;    // for not reading
    size_t waiting_bytes = 0;  // for routers to read, of all links
    uint64_t messages = 0;     // written
    uint64_t submitted = 0;    // sequences, the refused included
    uint64_t refused = 0;
    uint64_t ungranted = 0;  // of them, for want of a grant
    ExpertGiver::Stats experts;
  };
  Stats stats() const;

 private:
  class RouterLink;

  void LoadThread();
  void Forget(const std::shared_ptr<RouterLink>& link);
  std::vector<std::shared_ptr<RouterLink>> Links() const;
  v1::WorkerLoad Load() const;
  v1::Orphans Orphans() const;
  int32_t Share() const;  // of what there is room for, each link's
  void GrantAll();
  void NoteLeftovers(RouterLink& link, bool more);

  const Options options_;
  worker::Engine& engine_;
  const Authorize authorize_;
  const Failpoints& failpoints_;
  const v1::FromWorker hello_;
  const scheduler::CreditRule credit_rule_;
  ExpertGiver giver_;

  std::atomic<uint64_t> links_cut_{0}, messages_{0}, submitted_{0}, refused_{0}, ungranted_{0};
  std::atomic<bool> draining_{false};  // announced

  mutable std::mutex mutex_;  // guards what follows
  std::set<std::shared_ptr<RouterLink>> links_;
  std::string last_load_;  // serialized
  std::vector<std::string> last_orphans_;
  std::chrono::steady_clock::time_point last_told_;
  bool closing_ = false;
  bool stopping_ = false;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace conclave::services
