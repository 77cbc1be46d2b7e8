#include "services/cluster_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/convert_placement.h"
#include "services/convert_router.h"
#include "services/grpc_status.h"
#include "services/join_rules.h"
#include "services/log.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using scheduler::Membership;
using scheduler::Micros;
using scheduler::RouterRoster;
using scheduler::WorkerState;

constexpr char kHeartbeat[] = "/conclave.v1.Cluster/Heartbeat";
constexpr char kWatch[] = "/conclave.v1.Cluster/Watch";

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

}  // namespace

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
      membership_(options.membership, state.membership, now),
      membership_log_(options.membership, membership_.Workers()),
      placement_(options.placement, state.placement, now),
      adapters_(options.adapters, state.adapters, now),
      routers_(options.routers) {
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
  if (status.ok()) status = Hear(*request, Now());
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerWriteReactor<v1::ClusterView>* ClusterService::Watch(
    grpc::CallbackServerContext* context, const v1::WatchRequest*) {
  if (const auto tenant = authorize_(kWatch, PeerOf(*context)); !tenant.ok())
    return ViewStream::Refused(tenant.status());
  const std::lock_guard lock(mutex_);
  if (closing_) return ViewStream::Refused(absl::UnavailableError("the scheduler is going away"));
  if (watchers_.size() >= static_cast<size_t>(options_.max_watchers)) {
    return ViewStream::Refused(absl::ResourceExhaustedError(
        absl::StrFormat("the scheduler has %d watchers, its limit", options_.max_watchers)));
  }
  const auto watcher = std::make_shared<ViewStream>(
      [this](const std::shared_ptr<ViewStream>& gone) { Forget(gone); });
  watchers_.insert(watcher);
  watcher->Tell(view_);
  return watcher.get();
}

absl::Status ClusterService::Hear(const v1::HeartbeatRequest& beat, Micros now) {
  const std::lock_guard lock(mutex_);
  absl::Status status = beat.has_router() ? HearRouter(beat, now) : HearWorker(beat, now);
  ++(status.ok() ? stats_.heartbeats : stats_.heartbeats_refused);
  return status;
}

absl::Status ClusterService::HearWorker(const v1::HeartbeatRequest& beat, Micros now) {
  const v1::WorkerInfo& info = beat.worker();
  CONCLAVE_RETURN_IF_ERROR(ValidateBeat(beat));
  CONCLAVE_RETURN_IF_ERROR(MayJoin(info, membership_.Workers(), infos_));
  CONCLAVE_RETURN_IF_ERROR(Note(info, now));
  for (const v1::LostPeer& peer : beat.lost())
    membership_.ReportBroken(peer.id(), peer.incarnation());
  bool news = placement_.Hear(beat) || beat.lost_size() > 0;
  news |= adapters_.Hear(beat, now);
  if (news || membership_.version() != view_->version()) StepSoon();
  return absl::OkStatus();
}

absl::Status ClusterService::HearRouter(const v1::HeartbeatRequest& beat, Micros now) {
  CONCLAVE_RETURN_IF_ERROR(ValidateUse(beat));
  CONCLAVE_ASSIGN_OR_RETURN(const RouterRoster::Router router, ToRouter(beat.router()));
  if (routers_.Heartbeat(router, now)) {
    if (adapters_.Hear(beat, now)) StepSoon();
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrFormat("the cluster has %d routers, its limit; %s serves, but is not listed",
                      options_.routers.max_routers, router.address));
}

void ClusterService::StepSoon() {
  step_soon_ = true;
  wake_.notify_all();
}

void ClusterService::Excuse(Micros deaf, Micros now) {
  const std::lock_guard lock(mutex_);
  membership_.Excuse(deaf, now);
  routers_.Excuse(deaf, now);
}

// What a worker that counts says that it serves; all that count say the same.
const v1::ModelInfo* ClusterService::Model() const {
  for (const Membership::Worker& worker : membership_.Workers()) {
    const auto info = infos_.find(worker.id);
    if (worker.state != WorkerState::kDead && info != infos_.end()) return &info->second.model();
  }
  return nullptr;
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

void ClusterService::Step(Micros now) {
  std::optional<Draft> draft;
  {
    const std::lock_guard lock(mutex_);
    membership_.Tick(now);
    for (const MembershipLog::Line& line : membership_log_.Note(membership_.Workers()))
      WriteLog(line.bad ? LogLevel::kWarning : LogLevel::kInfo, line.text);
    routers_.Tick(now);
    const std::vector<Membership::Worker> workers = membership_.Workers();
    bool changed = placement_.Step(workers, Model(), now);
    changed |= adapters_.Step(workers, routers_.Routers(), Model(), membership_.version(),
                              placement_, now);
    if (changed) membership_.SetEpoch(placement_.change().epoch());
    draft = Unsaved(now);
    if (!draft) Answer();
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
  const auto dead = std::count_if(
      view_->workers().begin(), view_->workers().end(),
      [](const v1::WorkerInfo& worker) { return worker.state() == v1::WORKER_STATE_DEAD; });
  LogInfo("view %d: epoch %d, %d workers, %d of them dead", view_->version(), view_->epoch(),
          view_->workers_size(), dead);
  for (const std::shared_ptr<ViewStream>& watcher : watchers_) watcher->Tell(view_);
  Answer();
}

// Of what is saved: nobody hears of an end that a crash could undo.
void ClusterService::Answer() {
  if (membership_.version() != view_->version()) return;
  for (auto it = applying_.begin(); it != applying_.end();) {
    const auto end = placement_.EndOf(it->first);
    if (end) it->second(*end);
    it = end ? applying_.erase(it) : std::next(it);
  }
  for (auto it = operating_.begin(); it != operating_.end();) {
    const auto end = adapters_.EndOf(it->first);
    if (end) it->second(*end);
    it = end ? operating_.erase(it) : std::next(it);
  }
}

std::optional<ClusterService::Draft> ClusterService::Unsaved(Micros now) {
  if (membership_.version() == view_->version() || now < save_after_) return std::nullopt;
  ForgetInfos();
  Draft draft{.state = {.membership = membership_.Save(),
                        .placement = placement_.change().Save(),
                        .adapters = adapters_.catalogue().Save()},
              .view = MakeView()};
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
  placement_.Fill(view.get());
  adapters_.Fill(view.get());
  return view;
}

v1::WorkerInfo ClusterService::Describe(const Membership::Worker& worker) const {
  const auto said = infos_.find(worker.id);
  v1::WorkerInfo info = said == infos_.end() ? v1::WorkerInfo() : said->second;
  info.set_id(worker.id);
  info.set_incarnation(worker.incarnation);
  info.set_address(worker.address);
  info.set_state(placement_.StateOf(worker, ToProto(worker.state)));
  info.set_fenced(placement_.Fenced(worker.id));
  if (worker.state == WorkerState::kDead) {  // what it had is gone with it
    info.clear_load();
    info.clear_experts();
    info.clear_epoch();
  }
  return info;
}

std::shared_ptr<const v1::ClusterView> ClusterService::view() const {
  const std::lock_guard lock(mutex_);
  return view_;
}

void ClusterService::CloseWatches() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  for (const std::shared_ptr<ViewStream>& watcher : watchers_) watcher->Close();
  for (const auto& [plan, done] : applying_) {
    done(absl::UnavailableError(absl::StrFormat(
        "the scheduler is going away; what becomes of plan %d, the next one says", plan)));
  }
  applying_.clear();
  for (const auto& [operation, done] : operating_) {
    done(absl::UnavailableError(absl::StrFormat(
        "the scheduler is going away; the next one goes on with operation %s", operation)));
  }
  operating_.clear();
}

void ClusterService::Forget(const std::shared_ptr<ViewStream>& watcher) {
  const std::lock_guard lock(mutex_);
  watchers_.erase(watcher);
  wake_.notify_all();
}

void ClusterService::TickThread() {
  Micros last = Now();
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait_for(lock, options_.tick, [this] { return stopping_ || step_soon_; });
    if (stopping_) return;
    step_soon_ = false;
    const Micros now = Now();
    if (now - last > options_.deaf_after) {
      LogWarning("this process was stopped or starved for %d ms, in which nobody was heard",
                 std::chrono::duration_cast<std::chrono::milliseconds>(now - last).count());
      membership_.Excuse(now - last, now);
      routers_.Excuse(now - last, now);
    }
    last = now;
    lock.unlock();
    Step(now);
    lock.lock();
  }
}

}  // namespace conclave::services
