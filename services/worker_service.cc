#include "services/worker_service.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "services/convert_worker.h"
#include "services/grpc_status.h"
#include "services/log.h"
#include "services/router_link.h"

namespace conclave::services {
namespace {

constexpr char kServe[] = "/conclave.v1.Worker/Serve";

// A stream that ends before it begins.
class RefusedStream : public grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker> {
 public:
  explicit RefusedStream(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

v1::FromWorker MakeHello(const WorkerService::Options& options, const worker::Engine& engine) {
  v1::FromWorker message;
  v1::WorkerHello& hello = *message.mutable_hello();
  hello.set_worker_id(options.worker_id);
  hello.set_incarnation(options.incarnation);
  *hello.mutable_model() = ToProto(engine);
  const scheduler::BatchPlanner::Options& planner = engine.options().planner;
  hello.set_max_sequences_waiting(static_cast<uint32_t>(planner.max_waiting));
  hello.set_kv_blocks(static_cast<uint32_t>(planner.kv_blocks));
  hello.set_kv_block_size(static_cast<uint32_t>(planner.block_size));
  if (options.load_period.count() > 0)
    hello.set_pulse_ms(static_cast<uint32_t>(options.pulse.count()));
  return message;
}

}  // namespace

WorkerService::WorkerService(const Options& options, worker::Engine& engine, Authorize authorize,
                             const Failpoints& failpoints)
    : options_(options),
      engine_(engine),
      authorize_(authorize),
      failpoints_(failpoints),
      hello_(MakeHello(options, engine)),
      credit_rule_(options.credit),
      giver_(options.experts, engine, authorize, failpoints) {
  engine_.OnRoom([this] { GrantAll(); });
  if (options_.load_period.count() > 0) thread_ = std::thread([this] { LoadThread(); });
}

WorkerService::~WorkerService() {
  engine_.OnRoom(nullptr);
  std::unique_lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  wake_.wait(lock, [this] { return links_.empty(); });
  lock.unlock();
  if (thread_.joinable()) thread_.join();
}

grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker>* WorkerService::Serve(
    grpc::CallbackServerContext* context) {
  if (const auto tenant = authorize_(kServe, PeerOf(*context)); !tenant.ok()) {
    return new RefusedStream(tenant.status());
  }
  std::shared_ptr<RouterLink> link;
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return new RefusedStream(absl::UnavailableError("the worker is going away"));
    if (links_.size() >= static_cast<size_t>(options_.max_links)) {
      return new RefusedStream(absl::ResourceExhaustedError(
          absl::StrFormat("the worker has %d routers, its limit", options_.max_links)));
    }
    link = std::make_shared<RouterLink>(*this, *context);
    links_.insert(link);
  }
  LogInfo("router %s connected", context->peer());
  link->Start();
  return link.get();
}

grpc::ServerWriteReactor<v1::ExpertChunk>* WorkerService::FetchExpert(
    grpc::CallbackServerContext* context, const v1::FetchExpertRequest* request) {
  return giver_.Give(context, request);
}

void WorkerService::Forget(const std::shared_ptr<RouterLink>& link) {
  const std::lock_guard lock(mutex_);
  links_.erase(link);
  wake_.notify_all();
}

int32_t WorkerService::Share() const {
  const std::lock_guard lock(mutex_);
  return credit_rule_.Share(engine_.room(), static_cast<int32_t>(links_.size()));
}

void WorkerService::GrantAll() {
  const int32_t share = Share();
  for (const std::shared_ptr<RouterLink>& link : Links()) link->Grant(share);
}

std::vector<std::shared_ptr<WorkerService::RouterLink>> WorkerService::Links() const {
  const std::lock_guard lock(mutex_);
  return {links_.begin(), links_.end()};
}

v1::Orphans WorkerService::Orphans() const {
  v1::Orphans orphans;
  for (std::string& name : engine_.orphans()) orphans.add_request_ids(std::move(name));
  return orphans;
}

v1::WorkerLoad WorkerService::Load() const {
  v1::WorkerLoad load = ToProto(engine_.stats());
  for (std::string& id : engine_.LatePeers()) load.add_late(std::move(id));
  const std::lock_guard lock(mutex_);
  load.set_draining(load.draining() || draining_);
  return load;
}

void WorkerService::NoteLeftovers(RouterLink& link, bool more) {
  const std::lock_guard lock(mutex_);
  link.more = more;
  wake_.notify_all();
}

bool WorkerService::TakeLeftovers(std::chrono::steady_clock::time_point end) {
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
  }
  Step();
  const auto unsaid_until = std::chrono::steady_clock::now() + options_.leftovers_answer;
  const auto any = [this](auto&& matches) {
    return std::any_of(links_.begin(), links_.end(),
                       [&](const auto& link) { return matches(link); });
  };
  std::unique_lock lock(mutex_);
  wake_.wait_until(lock, std::min(end, unsaid_until),
                   [&] { return !any([](const auto& link) { return !link->more; }); });
  return wake_.wait_until(
      lock, end, [&] { return !any([](const auto& link) { return link->more == true; }); });
}

void WorkerService::Step() {
  for (const std::shared_ptr<RouterLink>& link : Links())
    link->CutIfLeft(std::chrono::steady_clock::now());
  GrantAll();
  const v1::WorkerLoad load = Load();
  std::string bytes = load.SerializeAsString();
  std::vector<std::string> orphans = engine_.orphans();
  std::optional<v1::Orphans> news;
  {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    if (orphans != last_orphans_) {
      last_orphans_ = std::move(orphans);
      news.emplace();
      for (const std::string& name : last_orphans_) news->add_request_ids(name);
    }
    if (!news && bytes == last_load_ && now - last_told_ < options_.pulse) return;
    last_load_ = std::move(bytes);
    last_told_ = now;
  }
  for (const std::shared_ptr<RouterLink>& link : Links()) link->SendLoad(load, news);
}

void WorkerService::CloseLinks() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  for (const std::shared_ptr<RouterLink>& link : Links()) link->CloseWhenWritten();
}

bool WorkerService::WaitClosed(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return wake_.wait_for(lock, timeout, [this] { return links_.empty(); });
}

WorkerService::Stats WorkerService::stats() const {
  const std::vector<std::shared_ptr<RouterLink>> links = Links();
  size_t waiting_bytes = 0;
  for (const std::shared_ptr<RouterLink>& link : links) waiting_bytes += link->waiting_bytes();
  return {.links = static_cast<int32_t>(links.size()),
          .links_cut = links_cut_.load(),
          .waiting_bytes = waiting_bytes,
          .messages = messages_.load(),
          .submitted = submitted_.load(),
          .refused = refused_.load(),
          .ungranted = ungranted_.load(),
          .experts = giver_.stats()};
}

void WorkerService::LoadThread() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, options_.load_period, [this] { return stopping_; })) {
    lock.unlock();
    Step();
    lock.lock();
  }
}

}  // namespace conclave::services
