#include "services/cluster_service.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "services/address.h"
#include "services/grpc_status.h"
#include "services/identity.h"
#include "services/log.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::Membership;
using scheduler::Micros;
using scheduler::WorkerState;

constexpr char kHeartbeat[] = "/conclave.v1.Cluster/Heartbeat";
constexpr char kWatch[] = "/conclave.v1.Cluster/Watch";
constexpr char kStatus[] = "/conclave.v1.Cluster/Status";
constexpr size_t kMaxInfoBytes = 64 << 10;

v1::WorkerState ToProto(WorkerState state) {
  switch (state) {
    case WorkerState::kReady:
      return v1::WORKER_STATE_READY;
    case WorkerState::kDraining:
      return v1::WORKER_STATE_DRAINING;
    case WorkerState::kSuspect:
      return v1::WORKER_STATE_SUSPECT;
    case WorkerState::kDead:
      return v1::WORKER_STATE_DEAD;
  }
  return v1::WORKER_STATE_UNSPECIFIED;
}

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

absl::Status Validate(const v1::WorkerInfo& info) {
  if (info.ByteSizeLong() > kMaxInfoBytes)
    return absl::InvalidArgumentError("worker: its description is too long");
  CONCLAVE_RETURN_IF_ERROR(ValidateId(info.id()));
  CONCLAVE_ASSIGN_OR_RETURN(const Address address, Address::Parse(info.address()));
  if (address.port == 0 || address.wildcard()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("worker.address: nobody can connect to %s", info.address()));
  }
  if (info.incarnation() == 0)
    return absl::InvalidArgumentError("worker.incarnation: must not be 0");
  return absl::OkStatus();
}

// Why the two cannot be of one cluster; empty if they can.
std::string Conflict(const v1::WorkerInfo& joins, const v1::WorkerInfo& member) {
  const v1::ModelInfo &ours = joins.model(), &theirs = member.model();
  if (ours.digest() != theirs.digest()) {
    return absl::StrFormat("worker %s serves %s (%s), worker %s serves %s (%s)", joins.id(),
                           ours.name(), ours.digest(), member.id(), theirs.name(), theirs.digest());
  }
  if (ours.numerics() != theirs.numerics()) {
    return absl::StrFormat("worker %s computes as %s, worker %s as %s; see --numerics", joins.id(),
                           ours.numerics(), member.id(), theirs.numerics());
  }
  return "";
}

// What a worker's say on who may join is worth.
enum class Standing : uint8_t { kFirm, kUnsure, kNone };

Standing StandingOf(const Membership::Worker& worker) {
  switch (worker.state) {
    case WorkerState::kReady:
      return worker.heard ? Standing::kFirm : Standing::kUnsure;
    case WorkerState::kSuspect:  // one not heard since the scheduler started has had its time
      return worker.heard ? Standing::kUnsure : Standing::kNone;
    case WorkerState::kDraining:
    case WorkerState::kDead:
      break;
  }
  return Standing::kNone;
}

// A stream that ends before it begins.
class RefusedWatch : public grpc::ServerWriteReactor<v1::ClusterView> {
 public:
  explicit RefusedWatch(const absl::Status& status) { Finish(services::ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

// One watcher's stream, shared by gRPC (until OnDone) and the service (while it has views to tell).
class ClusterService::Watcher : public grpc::ServerWriteReactor<v1::ClusterView>,
                                public std::enable_shared_from_this<Watcher> {
 public:
  explicit Watcher(ClusterService& service) : service_(service) {}

  void Tell(std::shared_ptr<const v1::ClusterView> view) {
    const std::lock_guard lock(mutex_);
    latest_ = std::move(view);
    Next();
  }

  void Close() {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    Next();
  }

 private:
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_.reset();
    if (!ok) return End(grpc::Status(grpc::UNAVAILABLE, "the watcher is gone"));
    Next();
  }
  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    End(grpc::Status::CANCELLED);
  }
  void OnDone() override { service_.Forget(shared_from_this()); }

  // Under mutex_.
  void Next() {
    if (finished_ || writing_ != nullptr) return;
    if (closing_) return End(grpc::Status(grpc::UNAVAILABLE, "the scheduler is going away"));
    if (latest_ == nullptr) return;
    writing_ = std::exchange(latest_, nullptr);
    StartWrite(writing_.get());
  }
  // Under mutex_.
  void End(const grpc::Status& status) {
    if (!std::exchange(finished_, true)) Finish(status);
  }

  ClusterService& service_;
  std::mutex mutex_;                                // guards what follows
  std::shared_ptr<const v1::ClusterView> latest_;   // not yet written; null: none
  std::shared_ptr<const v1::ClusterView> writing_;  // in flight; null: none
  bool closing_ = false;
  bool finished_ = false;
};

absl::StatusOr<std::unique_ptr<ClusterService>> ClusterService::Create(
    const Options& options, std::unique_ptr<StateStore> store, Authorize authorize,
    const Failpoints& failpoints, Micros now) {
  CONCLAVE_ASSIGN_OR_RETURN(const StateStore::State state, store->Load());
  return std::unique_ptr<ClusterService>(
      new ClusterService(options, std::move(store), state, std::move(authorize), failpoints, now));
}

ClusterService::ClusterService(const Options& options, std::unique_ptr<StateStore> store,
                               const StateStore::State& state, Authorize authorize,
                               const Failpoints& failpoints, Micros now)
    : options_(options),
      authorize_(std::move(authorize)),
      failpoints_(failpoints),
      store_(std::move(store)),
      membership_(options.membership, state.membership, now) {
  for (const auto& [id, bytes] : state.infos) {
    if (!infos_[id].ParseFromString(bytes)) infos_.erase(id);  // its next beat says it again
  }
  view_ = MakeView();
  if (options_.tick.count() > 0) thread_ = std::thread([this] { TickThread(); });
}

ClusterService::~ClusterService() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  wake_.wait(lock, [this] { return watchers_.empty(); });
  lock.unlock();
  if (thread_.joinable()) thread_.join();
}

Micros ClusterService::Now() {
  return std::chrono::duration_cast<Micros>(std::chrono::steady_clock::now().time_since_epoch());
}

void ClusterService::SetSelf(const v1::SchedulerStatus& self) {
  const std::lock_guard lock(mutex_);
  self_ = self;
}

grpc::ServerUnaryReactor* ClusterService::Heartbeat(grpc::CallbackServerContext* context,
                                                    const v1::HeartbeatRequest* request,
                                                    v1::HeartbeatResponse*) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  absl::Status status = authorize_(kHeartbeat, PeerOf(*context)).status();
  if (status.ok()) status = Hear(request->worker(), Now());
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerWriteReactor<v1::ClusterView>* ClusterService::Watch(
    grpc::CallbackServerContext* context, const v1::WatchRequest*) {
  if (const auto tenant = authorize_(kWatch, PeerOf(*context)); !tenant.ok())
    return new RefusedWatch(tenant.status());
  const std::lock_guard lock(mutex_);
  if (closing_) return new RefusedWatch(absl::UnavailableError("the scheduler is going away"));
  if (watchers_.size() >= static_cast<size_t>(options_.max_watchers)) {
    return new RefusedWatch(absl::ResourceExhaustedError(
        absl::StrFormat("the scheduler has %d watchers, its limit", options_.max_watchers)));
  }
  const auto watcher = std::make_shared<Watcher>(*this);
  watchers_.insert(watcher);
  watcher->Tell(view_);
  return watcher.get();
}

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
  }
  reactor->Finish(ToGrpc(status));
  return reactor;
}

absl::Status ClusterService::Hear(const v1::WorkerInfo& info, Micros now) {
  absl::Status status = Validate(info);
  const std::lock_guard lock(mutex_);
  if (status.ok()) status = MayJoin(info);
  if (status.ok()) status = Note(info, now);
  ++(status.ok() ? stats_.heartbeats : stats_.heartbeats_refused);
  if (membership_.version() != view_->version()) {
    step_soon_ = true;
    wake_.notify_all();
  }
  return status;
}

absl::Status ClusterService::Note(const v1::WorkerInfo& info, Micros now) {
  const Membership::Beat beat{.id = info.id(),
                              .incarnation = info.incarnation(),
                              .address = info.address(),
                              .draining = info.state() == v1::WORKER_STATE_DRAINING};
  switch (membership_.Heartbeat(beat, now)) {
    case Membership::Heard::kAccepted:
      infos_[info.id()] = info;
      return absl::OkStatus();
    case Membership::Heard::kStale:
      return absl::FailedPreconditionError(
          absl::StrFormat("worker %s was started again since; incarnation %d is over", info.id(),
                          info.incarnation()));
    case Membership::Heard::kFull:
      return absl::ResourceExhaustedError(
          absl::StrFormat("the cluster has %d workers, its limit; %s is too many",
                          options_.membership.max_workers, info.id()));
  }
  return absl::InternalError("unknown verdict");
}

// A cluster computes one model in one numerics, or its answers would depend on who gives them. What
// that model is, the workers say that are heard. One that is silent, or that was there before this
// scheduler started, may be gone for good or come back at any moment: it keeps another model out,
// but only until it is heard or its time is over.
absl::Status ClusterService::MayJoin(const v1::WorkerInfo& info) const {
  absl::Status wait;
  for (const Membership::Worker& worker : membership_.Workers()) {
    if (worker.id == info.id()) continue;
    const auto found = infos_.find(worker.id);
    if (found == infos_.end()) continue;
    const std::string conflict = Conflict(info, found->second);
    if (conflict.empty()) continue;
    switch (StandingOf(worker)) {
      case Standing::kFirm:
        return absl::FailedPreconditionError(conflict);
      case Standing::kUnsure:
        wait = absl::UnavailableError(absl::StrFormat(
            "%s; that one is silent: wait until it is heard or given up", conflict));
        break;
      case Standing::kNone:
        break;
    }
  }
  return wait;
}

void ClusterService::Step(Micros now) {
  std::optional<Draft> draft;
  {
    const std::lock_guard lock(mutex_);
    membership_.Tick(now);
    draft = Unsaved(now);
  }
  if (!draft) return;
  const absl::Status saved = Save(*draft);
  const std::lock_guard lock(mutex_);
  if (!saved.ok()) {
    ++stats_.saves_failed;
    save_after_ = now + options_.save_retry;
    LogError("the view is not saved and so not told: %s", std::string(saved.message()));
    return;
  }
  ++stats_.saves;
  view_ = draft->view;
  LogInfo("view %d: epoch %d, %d workers", view_->version(), view_->epoch(), view_->workers_size());
  for (const std::shared_ptr<Watcher>& watcher : watchers_) watcher->Tell(view_);
}

std::optional<ClusterService::Draft> ClusterService::Unsaved(Micros now) {
  if (membership_.version() == view_->version() || now < save_after_) return std::nullopt;
  ForgetInfos();
  Draft draft{.state = {.membership = membership_.Save()}, .view = MakeView()};
  for (const auto& [id, info] : infos_) draft.state.infos[id] = info.SerializeAsString();
  return draft;
}

// Of workers that membership has forgotten.
void ClusterService::ForgetInfos() {
  std::map<std::string, v1::WorkerInfo> known;
  for (const Membership::Worker& worker : membership_.Workers()) {
    const auto info = infos_.find(worker.id);
    if (info != infos_.end()) known[worker.id] = std::move(info->second);
  }
  infos_ = std::move(known);
}

absl::Status ClusterService::Save(const Draft& draft) {
  CONCLAVE_RETURN_IF_ERROR(failpoints_.Hit("scheduler.save"));
  return store_->Save(draft.state);
}

std::shared_ptr<const v1::ClusterView> ClusterService::MakeView() const {
  auto view = std::make_shared<v1::ClusterView>();
  view->set_epoch(membership_.epoch());
  view->set_version(membership_.version());
  for (const Membership::Worker& worker : membership_.Workers()) {
    v1::WorkerInfo& info = *view->add_workers();
    info = Describe(worker);
    // Older than the view as soon as it is told.
    info.clear_load();  // links carry it
    info.clear_epoch();
  }
  return view;
}

v1::WorkerInfo ClusterService::Describe(const Membership::Worker& worker) const {
  const auto said = infos_.find(worker.id);
  v1::WorkerInfo info = said == infos_.end() ? v1::WorkerInfo() : said->second;
  info.set_id(worker.id);
  info.set_incarnation(worker.incarnation);
  info.set_address(worker.address);
  info.set_state(ToProto(worker.state));
  return info;
}

std::shared_ptr<const v1::ClusterView> ClusterService::view() const {
  const std::lock_guard lock(mutex_);
  return view_;
}

void ClusterService::CloseWatches() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  for (const std::shared_ptr<Watcher>& watcher : watchers_) watcher->Close();
}

void ClusterService::Forget(const std::shared_ptr<Watcher>& watcher) {
  const std::lock_guard lock(mutex_);
  watchers_.erase(watcher);
  wake_.notify_all();
}

ClusterService::Stats ClusterService::stats() const {
  const std::lock_guard lock(mutex_);
  Stats stats = stats_;
  stats.epoch = view_->epoch();
  stats.version = view_->version();
  stats.watchers = static_cast<int32_t>(watchers_.size());
  for (const WorkerState state :
       {WorkerState::kReady, WorkerState::kDraining, WorkerState::kSuspect, WorkerState::kDead}) {
    stats.workers[NameOf(state)] = 0;
  }
  for (const Membership::Worker& worker : membership_.Workers())
    ++stats.workers[NameOf(worker.state)];
  return stats;
}

void ClusterService::TickThread() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait_for(lock, options_.tick, [this] { return stopping_ || step_soon_; });
    if (stopping_) return;
    step_soon_ = false;
    lock.unlock();
    Step(Now());
    lock.lock();
  }
}

}  // namespace conclave::services
