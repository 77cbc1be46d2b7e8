// What operators ask of a scheduler: status and figures, and changes of the cluster, which are
// answered when they are saved and in force.

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/cluster_service.h"
#include "services/convert_placement.h"
#include "services/convert_router.h"
#include "services/grpc_status.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::Membership;
using scheduler::Micros;
using scheduler::RouterRoster;
using scheduler::RouterState;
using scheduler::WorkerState;

constexpr char kStatus[] = "/conclave.v1.Cluster/Status";
constexpr char kApply[] = "/conclave.v1.Cluster/Apply";
constexpr char kResidency[] = "/conclave.v1.Cluster/Residency";
constexpr char kAddAdapter[] = "/conclave.v1.Cluster/AddAdapter";
constexpr char kRemoveAdapter[] = "/conclave.v1.Cluster/RemoveAdapter";
constexpr char kListAdapters[] = "/conclave.v1.Cluster/ListAdapters";

const char* NameOf(WorkerState state) {
  switch (state) {
    case WorkerState::kReady:
      return "ready";
    case WorkerState::kDraining:
      return "draining";
    case WorkerState::kSuspect:
      return "suspect";
    case WorkerState::kDead:
      return "dead";
  }
  return "unknown";
}

// Who waits for the end of an operation: its end finishes the call, or that the caller has gone.
class AdapterCaller final : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<AdapterCaller> Make(v1::AdapterOperation* response) {
    auto caller = std::make_shared<AdapterCaller>(response);
    caller->self_ = caller;
    return caller;
  }
  explicit AdapterCaller(v1::AdapterOperation* response) : response_(response) {}

  void End(const absl::StatusOr<v1::AdapterOperation>& end) {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(ended_, true)) return;
      if (end.ok()) *response_ = *end;
    }
    Finish(ToGrpc(end.status()));
  }
  void OnCancel() override { End(absl::CancelledError("the caller has gone")); }
  void OnDone() override { self_.reset(); }

 private:
  v1::AdapterOperation* const response_;  // valid until it has ended
  std::shared_ptr<AdapterCaller> self_;
  std::mutex mutex_;
  bool ended_ = false;
};

// Begins what `begin` begins, for a caller who may; it answers when that is over.
grpc::ServerUnaryReactor* AnswerLater(
    const absl::StatusOr<std::string>& tenant, v1::AdapterOperation* response,
    const std::function<absl::StatusOr<std::string>(ClusterService::OnAdapter)>& begin) {
  const std::shared_ptr<AdapterCaller> caller = AdapterCaller::Make(response);
  absl::Status status = tenant.status();
  if (status.ok()) status = begin([caller](const auto& end) { caller->End(end); }).status();
  if (!status.ok()) caller->End(status);
  return caller.get();
}

}  // namespace

grpc::ServerUnaryReactor* ClusterService::Status(grpc::CallbackServerContext* context,
                                                 const v1::StatusRequest*,
                                                 v1::StatusResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::Status status = authorize_(kStatus, PeerOf(*context)).status();
  if (status.ok()) {
    const std::lock_guard lock(mutex_);
    response->set_epoch(view_->epoch());
    *response->mutable_scheduler() = self_;
    for (const Membership::Worker& worker : membership_.Workers())
      *response->add_workers() = Describe(worker);
    for (const RouterRoster::Router& router : routers_.Routers())
      *response->add_routers() = ToProto(router);
    *response->mutable_adapters() = adapters_.Describe().adapters();
  }
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* ClusterService::Apply(grpc::CallbackServerContext* context,
                                                const v1::ApplyRequest* request,
                                                v1::ApplyResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const auto apply = [&]() -> absl::Status {
    CONCLAVE_RETURN_IF_ERROR(authorize_(kApply, PeerOf(*context)).status());
    CONCLAVE_ASSIGN_OR_RETURN(const Plan plan,
                              FromProto(*request, options_.placement.change.limits));
    const auto done = [reactor, response](const absl::StatusOr<scheduler::Epoch>& end) {
      if (end.ok()) response->set_epoch(*end);
      reactor->Finish(ToGrpc(end.status()));
    };
    const std::lock_guard lock(mutex_);  // done comes after the plan is in the response
    CONCLAVE_ASSIGN_OR_RETURN(const uint64_t opened, ApplyLocked(plan, done, Now()));
    response->set_plan(opened);
    return absl::OkStatus();
  };
  const absl::Status status = apply();
  if (!status.ok()) reactor->Finish(ToGrpc(status));
  return reactor;
}

absl::StatusOr<uint64_t> ClusterService::Place(const Plan& plan, OnApplied done, Micros now) {
  const std::lock_guard lock(mutex_);
  return ApplyLocked(plan, std::move(done), now);
}

absl::StatusOr<uint64_t> ClusterService::ApplyLocked(const Plan& plan, OnApplied done, Micros now) {
  if (closing_) return absl::UnavailableError("the scheduler is going away");
  CONCLAVE_ASSIGN_OR_RETURN(const uint64_t opened,
                            placement_.Apply(plan, membership_.Workers(), Model(), now));
  applying_[opened] = std::move(done);
  membership_.SetEpoch(placement_.change().epoch());
  StepSoon();
  return opened;
}

grpc::ServerUnaryReactor* ClusterService::Residency(grpc::CallbackServerContext* context,
                                                    const v1::ResidencyRequest* request,
                                                    v1::ResidencyResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  absl::Status status = authorize_(kResidency, PeerOf(*context)).status();
  if (status.ok()) status = FillResidency(*view(), *request, response);
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* ClusterService::AddAdapter(grpc::CallbackServerContext* context,
                                                     const v1::AddAdapterRequest* request,
                                                     v1::AdapterOperation* response) {
  return AnswerLater(authorize_(kAddAdapter, PeerOf(*context)), response,
                     [&](OnAdapter done) { return Add(*request, std::move(done)); });
}

grpc::ServerUnaryReactor* ClusterService::RemoveAdapter(grpc::CallbackServerContext* context,
                                                        const v1::RemoveAdapterRequest* request,
                                                        v1::AdapterOperation* response) {
  return AnswerLater(authorize_(kRemoveAdapter, PeerOf(*context)), response,
                     [&](OnAdapter done) { return Remove(*request, std::move(done)); });
}

grpc::ServerUnaryReactor* ClusterService::ListAdapters(grpc::CallbackServerContext* context,
                                                       const v1::ListAdaptersRequest*,
                                                       v1::AdapterCatalogue* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::Status status = authorize_(kListAdapters, PeerOf(*context)).status();
  if (status.ok()) {
    const std::lock_guard lock(mutex_);
    *response = adapters_.Describe();
  }
  reactor->Finish(ToGrpc(status));
  return reactor;
}

absl::StatusOr<std::string> ClusterService::Add(const v1::AddAdapterRequest& request,
                                                OnAdapter done) {
  return Operate(&AdapterDriver::Add, request, std::move(done));
}

absl::StatusOr<std::string> ClusterService::Remove(const v1::RemoveAdapterRequest& request,
                                                   OnAdapter done) {
  return Operate(&AdapterDriver::Remove, request, std::move(done));
}

// What is begun is told and saved by the next step, as is the end of one that is over already.
template <typename Request>
absl::StatusOr<std::string> ClusterService::Operate(
    absl::StatusOr<std::string> (AdapterDriver::*begin)(const Request&), const Request& request,
    OnAdapter done) {
  const std::lock_guard lock(mutex_);
  if (closing_) return absl::UnavailableError("the scheduler is going away");
  if (operating_.size() >= options_.max_callers) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d callers wait for operations on adapters, the limit", options_.max_callers));
  }
  if (Model() == nullptr) return absl::FailedPreconditionError("no worker has joined yet");
  CONCLAVE_ASSIGN_OR_RETURN(std::string operation, (adapters_.*begin)(request));
  operating_.emplace(operation, std::move(done));
  membership_.SetEpoch(placement_.change().epoch());
  StepSoon();
  return operation;
}

ClusterService::Stats ClusterService::stats() const {
  const std::lock_guard lock(mutex_);
  Stats stats = stats_;
  stats.changes = membership_log_.counts();
  stats.epoch = view_->epoch();
  stats.version = view_->version();
  stats.watchers = static_cast<int32_t>(watchers_.size());
  for (const WorkerState state :
       {WorkerState::kReady, WorkerState::kDraining, WorkerState::kSuspect, WorkerState::kDead}) {
    stats.workers[NameOf(state)] = 0;
  }
  for (const Membership::Worker& worker : membership_.Workers())
    ++stats.workers[NameOf(worker.state)];
  for (const RouterState state :
       {RouterState::kServing, RouterState::kDraining, RouterState::kDead}) {
    stats.routers[NameOf(state)] = 0;
  }
  for (const RouterRoster::Router& router : routers_.Routers())
    ++stats.routers[NameOf(router.state)];
  stats.phase = placement_.change().phase();
  stats.released = placement_.change().floor();
  stats.placement = placement_.change().stats();
  for (const auto& row : adapters_.catalogue().Rows())
    ++(row.active ? stats.adapters_active : stats.adapters_draining);
  for (const auto& [digest, version] : adapters_.catalogue().Save().versions) {
    stats.adapter_bytes += version.bytes;
    stats.adapters_on_disk += version.on_disk ? 1 : 0;
  }
  for (const scheduler::AdapterOperation& operation : adapters_.catalogue().Save().operations)
    stats.adapter_operations += IsOpen(operation.stage) ? 1 : 0;
  stats.adapters = adapters_.catalogue().stats();
  return stats;
}

}  // namespace conclave::services
