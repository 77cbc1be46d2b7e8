#include "services/worker_service.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "services/convert_worker.h"
#include "services/grpc_status.h"
#include "services/log.h"

namespace conclave::services {
namespace {

using worker::SequenceEvent;

constexpr char kServe[] = "/conclave.v1.Worker/Serve";
constexpr size_t kMessageBytes =
    1 << 20;  // of events in one message, so that none waits long behind another

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

// One router's stream, shared by gRPC (until OnDone) and the engine (while it has sequences of it).
// gRPC reacts to a write on its own threads, so starting one under mutex_ is safe.
class WorkerService::RouterLink : public grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker>,
                                  public worker::Link,
                                  public std::enable_shared_from_this<RouterLink> {
 public:
  RouterLink(WorkerService& service, grpc::CallbackServerContext& context)
      : service_(service),
        model_(service.engine_.model()),
        context_(context),
        peer_(context.peer()) {}

  void Start() {
    const std::lock_guard lock(mutex_);
    outgoing_ = service_.hello_;
    *outgoing_.mutable_load() = service_.Load();
    *outgoing_.mutable_orphans() = service_.Orphans();
    StartWrite(&outgoing_);
    StartRead(&incoming_);
  }

  // What the router said of sequences it still has for a draining worker. Under the service's
  // mutex_.
  std::optional<bool> more;

  // Engine thread.
  void OnStep(std::vector<SequenceEvent> events) override { Enqueue(std::move(events)); }

  void SendLoad(const v1::WorkerLoad& load, const std::optional<v1::Orphans>& orphans) {
    std::unique_lock lock(mutex_);
    load_ = load;
    if (orphans) orphans_ = orphans;
    CutOrWrite(std::move(lock));
  }

  // Cuts a stream whose router has left and has not read the last message in time.
  void CutIfLeft(std::chrono::steady_clock::time_point now) {
    const std::lock_guard lock(mutex_);
    if (left_ && !finished_ && !cut_ && now - *left_ >= service_.options_.last_message) Cut();
  }

  size_t waiting_bytes() {
    const std::lock_guard lock(mutex_);
    return pending_bytes_;
  }

  // Ends the stream well once everything is written.
  void CloseWhenWritten() {
    std::unique_lock lock(mutex_);
    closing_ = true;
    CutOrWrite(std::move(lock));
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return Leave();
    TakeMessage();
    const std::lock_guard lock(mutex_);
    if (!finished_) StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(grpc::Status(grpc::UNAVAILABLE, "the router is gone"));
    service_.messages_.fetch_add(1, std::memory_order_relaxed);
    std::unique_lock lock(mutex_);
    writing_ = false;
    CutOrWrite(std::move(lock));
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }

  // Last, when all reactions have returned: nothing can be submitted any more.
  void OnDone() override {
    LogInfo("router %s left", peer_);
    service_.engine_.CloseLink(this);
    service_.Forget(shared_from_this());
  }

  void TakeMessage() {
    const scheduler::Micros now = worker::Engine::Now();
    for (const v1::Submit& submit : incoming_.submit()) {
      service_.submitted_.fetch_add(1, std::memory_order_relaxed);
      const absl::Status status = Submit(submit, now);
      if (!status.ok()) Refuse(submit.sequence(), status);
    }
    if (incoming_.has_still_waiting()) {
      yielded_ = incoming_.still_waiting() == 0;
      service_.NoteLeftovers(*this, !yielded_);
    }
    for (const uint64_t id : incoming_.cancel()) service_.engine_.Cancel(this, id);
    for (const uint64_t id : incoming_.pause()) service_.engine_.SetPaused(this, id, true);
    for (const uint64_t id : incoming_.resume()) service_.engine_.SetPaused(this, id, false);
  }

  absl::Status Submit(const v1::Submit& submit, scheduler::Micros now) {
    if (const absl::Status failed = service_.failpoints_.Hit("worker.submit"); !failed.ok())
      return failed;
    if (yielded_) return absl::UnavailableError("the worker is draining");
    absl::StatusOr<worker::SequenceRequest> request = ToSequenceRequest(submit, now);
    if (!request.ok()) return request.status();
    return service_.engine_.Submit(shared_from_this(), *std::move(request));
  }

  void Refuse(uint64_t sequence, const absl::Status& status) {
    service_.refused_.fetch_add(1, std::memory_order_relaxed);
    SequenceEvent event{.id = sequence};
    event.end = worker::SequenceEnd{.status = status};
    Enqueue({std::move(event)});
  }

  // Any thread.
  void Enqueue(std::vector<SequenceEvent> events) {
    std::unique_lock lock(mutex_);
    for (SequenceEvent& event : events) {
      pending_bytes_ += BytesOf(event);
      pending_.push_back(std::move(event));
    }
    CutOrWrite(std::move(lock));
  }

  // Writes what waits if the stream is free; cuts the stream if too much waits.
  void CutOrWrite(std::unique_lock<std::mutex> lock) {
    if (left_) Discard();
    if (finished_ || cut_) return;
    if (pending_bytes_ > service_.options_.outbound_bytes) return Cut();
    if (writing_) return;
    if (!pending_.empty() || load_) return Write(std::move(lock));
    if (closing_) {
      finished_ = true;
      Finish(grpc::Status::OK);
    }
  }

  // The engine adds to pending_ meanwhile: it never waits for a message to be made. While the lock
  // is not held the stream may end and the service with it.
  void Write(std::unique_lock<std::mutex> lock) {
    writing_ = true;
    const std::vector<SequenceEvent> events = TakePending();
    const std::optional<v1::WorkerLoad> load = std::exchange(load_, std::nullopt);
    const std::optional<v1::Orphans> orphans = std::exchange(orphans_, std::nullopt);
    lock.unlock();
    FillMessage(events, load);
    if (orphans) *outgoing_.mutable_orphans() = *orphans;
    lock.lock();
    if (!finished_) StartWrite(&outgoing_);
  }

  // Under mutex_, maybe on the engine's thread, which must not be called back: gRPC's cancellation
  // tells the engine.
  void Cut() {
    cut_ = true;
    service_.links_cut_.fetch_add(1, std::memory_order_relaxed);
    LogWarning("router %s does not read: cut after %d bytes waited", peer_, pending_bytes_);
    Discard();
    context_.TryCancel();
  }

  // Under mutex_. What fits a message.
  std::vector<SequenceEvent> TakePending() {
    std::vector<SequenceEvent> events;
    for (size_t bytes = 0; !pending_.empty() && bytes < kMessageBytes; pending_.pop_front()) {
      const size_t event_bytes = BytesOf(pending_.front());
      bytes += event_bytes;
      pending_bytes_ -= event_bytes;
      events.push_back(std::move(pending_.front()));
    }
    return events;
  }

  // By who set writing_. A sequence's events of several steps become one.
  void FillMessage(const std::vector<SequenceEvent>& events,
                   const std::optional<v1::WorkerLoad>& load) {
    outgoing_.Clear();
    std::map<uint64_t, v1::SequenceEvent*> open;
    for (const SequenceEvent& event : events) {
      v1::SequenceEvent*& proto = open[event.id];
      if (proto == nullptr || proto->has_end()) proto = outgoing_.add_events();
      ToProto(event, model_, *proto);
    }
    if (load) *outgoing_.mutable_load() = *load;
  }

  // The router will say no more. What is being written is the last it is told.
  void Leave() {
    service_.engine_.CloseLink(this);
    std::unique_lock lock(mutex_);
    left_ = std::chrono::steady_clock::now();
    closing_ = true;
    CutOrWrite(std::move(lock));
  }

  // The stream is broken, or was cut. gRPC's threads.
  void End(const grpc::Status& status) {
    service_.engine_.CloseLink(this);
    const std::lock_guard lock(mutex_);
    Discard();
    if (!std::exchange(finished_, true)) Finish(status);
  }

  // Under mutex_.
  void Discard() {
    pending_.clear();
    pending_bytes_ = 0;
    load_.reset();
    orphans_.reset();
  }

  WorkerService& service_;  // lives until OnDone: to be used under mutex_ and unless finished_, or
                            // in a reaction
  const worker::Model& model_;            // the engine's, which outlives every link
  grpc::CallbackServerContext& context_;  // lives until OnDone
  const std::string peer_;
  v1::ToWorker incoming_;  // gRPC's while a read is in flight
  bool yielded_ = false;   // the router has said its last word to a draining worker; of the reader

  std::mutex mutex_;
  v1::FromWorker outgoing_;  // theirs who set writing_, then gRPC's
  std::deque<SequenceEvent> pending_;
  size_t pending_bytes_ = 0;  // of pending_
  std::optional<v1::WorkerLoad> load_;
  std::optional<v1::Orphans> orphans_;  // never without load_
  bool writing_ = true;                 // a message is being made or written; at first the hello
  std::optional<std::chrono::steady_clock::time_point> left_;  // when the router said its last
  bool cut_ = false;       // cancelled for not reading; nothing is written any more
  bool closing_ = false;   // finish once nothing waits
  bool finished_ = false;  // Finish was called; no operation may follow
};

WorkerService::WorkerService(const Options& options, worker::Engine& engine, Authorize authorize,
                             const Failpoints& failpoints)
    : options_(options),
      engine_(engine),
      authorize_(std::move(authorize)),
      failpoints_(failpoints),
      hello_(MakeHello(options, engine)) {
  if (options_.load_period.count() > 0) thread_ = std::thread([this] { LoadThread(); });
}

WorkerService::~WorkerService() {
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

void WorkerService::Forget(const std::shared_ptr<RouterLink>& link) {
  const std::lock_guard lock(mutex_);
  links_.erase(link);
  wake_.notify_all();
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
          .refused = refused_.load()};
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
