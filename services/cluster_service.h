#pragma once
// The scheduler's face (cluster.proto): hears the heartbeats of workers and routers, keeps
// membership and placement on disk, and tells every watcher the view. A view is told only once it
// is saved, so nobody ever knows more than the scheduler will after a crash. Saving waits for the
// disk and is the ticking thread's: a heartbeat is only noted.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "conclave/v1/cluster.grpc.pb.h"
#include "scheduler/membership.h"
#include "scheduler/router_roster.h"
#include "services/adapter_driver.h"
#include "services/authorize.h"
#include "services/failpoint.h"
#include "services/membership_log.h"
#include "services/placement_driver.h"
#include "services/state_store.h"
#include "services/view_stream.h"

namespace conclave::services {

class ClusterService : public v1::Cluster::CallbackService {
 public:
  struct Options {
    scheduler::Membership::Options membership;
    scheduler::RouterRoster::Options routers;
    PlacementDriver::Options placement;
    AdapterDriver::Options adapters;
    size_t max_callers = 256;     // that wait for operations on adapters
    int32_t max_watchers = 2048;  // routers and workers
    // How often silence is looked for; 0: no thread, a test calls Step.
    std::chrono::milliseconds tick{50};
    // A tick that comes later than this: the process was stopped, and heard nobody meanwhile.
    std::chrono::milliseconds deaf_after{250};
    std::chrono::milliseconds save_retry{1000};  // after the state could not be written
  };

  // Failpoints outlive the service, the service its server. Starts from what the store holds.
  static absl::StatusOr<std::unique_ptr<ClusterService>> Create(const Options& options,
                                                                std::unique_ptr<StateStore> store,
                                                                Authorize authorize,
                                                                const Failpoints& failpoints,
                                                                scheduler::Micros now);
  ~ClusterService() override;

  // Known once the server listens; told in Status.
  void SetSelf(const v1::SchedulerStatus& self);

  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context,
                                      const v1::HeartbeatRequest* request,
                                      v1::HeartbeatResponse* response) override;
  grpc::ServerWriteReactor<v1::ClusterView>* Watch(grpc::CallbackServerContext* context,
                                                   const v1::WatchRequest* request) override;
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const v1::StatusRequest* request,
                                   v1::StatusResponse* response) override;
  grpc::ServerUnaryReactor* Apply(grpc::CallbackServerContext* context,
                                  const v1::ApplyRequest* request,
                                  v1::ApplyResponse* response) override;
  grpc::ServerUnaryReactor* Residency(grpc::CallbackServerContext* context,
                                      const v1::ResidencyRequest* request,
                                      v1::ResidencyResponse* response) override;
  grpc::ServerUnaryReactor* AddAdapter(grpc::CallbackServerContext* context,
                                       const v1::AddAdapterRequest* request,
                                       v1::AdapterOperation* response) override;
  grpc::ServerUnaryReactor* RemoveAdapter(grpc::CallbackServerContext* context,
                                          const v1::RemoveAdapterRequest* request,
                                          v1::AdapterOperation* response) override;
  grpc::ServerUnaryReactor* ListAdapters(grpc::CallbackServerContext* context,
                                         const v1::ListAdaptersRequest* request,
                                         v1::AdapterCatalogue* response) override;

  // Draws what follows from silence up to `now`, then saves and tells the view if it changed since
  // it was last saved. Waits for the disk. One thread at a time.
  void Step(scheduler::Micros now);
  // A heartbeat, as the RPC takes it; the view that follows is saved and told by the next Step.
  // FAILED_PRECONDITION: this worker cannot be one of this cluster. UNAVAILABLE: not as long as a
  // worker that is silent right now may come back; to be tried again. RESOURCE_EXHAUSTED: there are
  // too many; a router then serves on, but is not listed.
  absl::Status Hear(const v1::HeartbeatRequest& beat, scheduler::Micros now);
  // Opens a change of the placement; the number of its plan. `done` is called once with its epoch
  // when all workers serve by it, or with ABORTED if it was taken back; by Step, or when watches
  // are closed, with a lock held.
  using OnApplied = std::function<void(const absl::StatusOr<scheduler::Epoch>& end)>;
  absl::StatusOr<uint64_t> Place(const Plan& plan, OnApplied done, scheduler::Micros now);
  // Begins an operation on adapters, or joins one; its id. `done` is called as OnApplied is, with
  // how it ended.
  using OnAdapter = std::function<void(const absl::StatusOr<v1::AdapterOperation>& end)>;
  absl::StatusOr<std::string> Add(const v1::AddAdapterRequest& request, OnAdapter done);
  absl::StatusOr<std::string> Remove(const v1::RemoveAdapterRequest& request, OnAdapter done);
  // Nobody was listened to for so long.
  void Excuse(scheduler::Micros deaf, scheduler::Micros now);
  // The saved view.
  std::shared_ptr<const v1::ClusterView> view() const;
  // Ends every watch and whoever waits for a change with UNAVAILABLE, so that they look for a
  // scheduler again; refuses new ones.
  void CloseWatches();

  struct Stats {
    uint64_t epoch = 0;
    uint64_t version = 0;
    std::map<std::string, int32_t> workers, routers;  // by state
    int32_t watchers = 0;
    uint64_t heartbeats = 0;
    uint64_t heartbeats_refused = 0;
    MembershipLog::Counts changes;
    uint64_t saves = 0;
    uint64_t saves_failed = 0;
    scheduler::PlacementChange::Phase phase = scheduler::PlacementChange::Phase::kNone;
    scheduler::Epoch released = 0;
    scheduler::PlacementChange::Stats placement;
    int32_t adapters_active = 0, adapters_draining = 0;  // names and versions
    int32_t adapters_on_disk = 0;                        // versions
    uint64_t adapter_bytes = 0;                          // of all versions
    int32_t adapter_operations = 0;                      // open
    scheduler::AdapterCatalogue::Stats adapters;
  };
  Stats stats() const;

  // The clock of `now`.
  static scheduler::Micros Now();

 private:
  // A view and what is saved of it.
  struct Draft {
    StateStore::State state;
    std::shared_ptr<const v1::ClusterView> view;
  };

  ClusterService(const Options& options, std::unique_ptr<StateStore> store,
                 const StateStore::State& state, Authorize authorize, const Failpoints& failpoints,
                 scheduler::Micros now);
  absl::Status Save(const Draft& draft);  // without mutex_
  // Under mutex_.
  absl::Status Note(const v1::WorkerInfo& info, scheduler::Micros now);
  absl::Status HearWorker(const v1::HeartbeatRequest& beat, scheduler::Micros now);
  absl::Status HearRouter(const v1::HeartbeatRequest& beat, scheduler::Micros now);
  absl::StatusOr<uint64_t> ApplyLocked(const Plan& plan, OnApplied done, scheduler::Micros now);
  const v1::ModelInfo* Model() const;
  template <typename Request>
  absl::StatusOr<std::string> Operate(
      absl::StatusOr<std::string> (AdapterDriver::*begin)(const Request&), const Request& request,
      OnAdapter done);
  void StepSoon();
  void Answer();
  std::optional<Draft> Unsaved(scheduler::Micros now);
  void ForgetInfos();
  std::shared_ptr<const v1::ClusterView> MakeView() const;
  v1::WorkerInfo Describe(const scheduler::Membership::Worker& worker) const;

  void Forget(const std::shared_ptr<ViewStream>& watcher);
  void TickThread();

  const Options options_;
  const Authorize authorize_;
  const Failpoints& failpoints_;
  const std::unique_ptr<StateStore> store_;  // who steps has it

  mutable std::mutex mutex_;  // guards what follows
  scheduler::Membership membership_;
  MembershipLog membership_log_;
  PlacementDriver placement_;
  AdapterDriver adapters_;
  scheduler::RouterRoster routers_;
  std::map<uint64_t, OnApplied> applying_;           // by plan
  std::multimap<std::string, OnAdapter> operating_;  // by operation
  std::map<std::string, v1::WorkerInfo> infos_;      // what each worker last said
  std::shared_ptr<const v1::ClusterView> view_;      // as saved
  scheduler::Micros save_after_{0};
  v1::SchedulerStatus self_;
  std::set<std::shared_ptr<ViewStream>> watchers_;
  Stats stats_;
  bool closing_ = false;
  bool stopping_ = false;
  bool step_soon_ = false;  // something changed
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace conclave::services
