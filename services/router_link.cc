#include "services/router_link.h"

#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/convert_worker.h"
#include "services/log.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using worker::SequenceEvent;

constexpr size_t kMessageBytes =
    1 << 20;  // of events in one message, so that none waits long behind another

}  // namespace

void WorkerService::RouterLink::Start() {
  const std::lock_guard lock(mutex_);
  outgoing_ = service_.hello_;
  *outgoing_.mutable_load() = service_.Load();
  *outgoing_.mutable_orphans() = service_.Orphans();
  credit_.Grant(service_.Share());
  outgoing_.set_granted(credit_.Tell().value_or(0));
  StartWrite(&outgoing_);
  StartRead(&incoming_);
}

void WorkerService::RouterLink::SendLoad(const v1::WorkerLoad& load,
                                         const std::optional<v1::Orphans>& orphans) {
  std::unique_lock lock(mutex_);
  load_ = load;
  if (orphans) orphans_ = orphans;
  CutOrWrite(std::move(lock));
}

void WorkerService::RouterLink::Grant(int32_t share) {
  std::unique_lock lock(mutex_);
  credit_.Grant(share);
  CutOrWrite(std::move(lock));
}

void WorkerService::RouterLink::CutIfLeft(std::chrono::steady_clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (left_ && !finished_ && !cut_ && now - *left_ >= service_.options_.last_message)
    Cut("has left and does not read the last message");
}

void WorkerService::RouterLink::CloseWhenWritten() {
  std::unique_lock lock(mutex_);
  closing_ = true;
  CutOrWrite(std::move(lock));
}

size_t WorkerService::RouterLink::waiting_bytes() {
  const std::lock_guard lock(mutex_);
  return pending_bytes_;
}

void WorkerService::RouterLink::OnReadDone(bool ok) {
  if (!ok) return Leave();
  TakeMessage();
  const std::lock_guard lock(mutex_);
  if (!finished_) StartRead(&incoming_);
}

void WorkerService::RouterLink::OnWriteDone(bool ok) {
  if (!ok) return End(grpc::Status(grpc::UNAVAILABLE, "the router is gone"));
  service_.messages_.fetch_add(1, std::memory_order_relaxed);
  std::unique_lock lock(mutex_);
  writing_ = false;
  CutOrWrite(std::move(lock));
}

void WorkerService::RouterLink::OnDone() {
  LogInfo("router %s left", peer_);
  service_.engine_.CloseLink(this);
  service_.Forget(shared_from_this());
}

void WorkerService::RouterLink::TakeMessage() {
  const scheduler::Micros now = worker::Engine::Now();
  for (const v1::Submit& submit : incoming_.submit()) {
    service_.submitted_.fetch_add(1, std::memory_order_relaxed);
    const absl::Status status = Submit(submit, now);
    if (!status.ok()) Refuse(submit.sequence(), status);
  }
  if (incoming_.submit_size() > 0) Grant(service_.Share());
  if (incoming_.has_still_waiting()) {
    yielded_ = incoming_.still_waiting() == 0;
    service_.NoteLeftovers(*this, !yielded_);
  }
  for (const uint64_t id : incoming_.cancel()) service_.engine_.Cancel(this, id);
  for (const uint64_t id : incoming_.pause()) service_.engine_.SetPaused(this, id, true);
  for (const uint64_t id : incoming_.resume()) service_.engine_.SetPaused(this, id, false);
}

absl::Status WorkerService::RouterLink::Submit(const v1::Submit& submit, scheduler::Micros now) {
  CONCLAVE_RETURN_IF_ERROR(TakeCredit(submit));
  if (const absl::Status failed = service_.failpoints_.Hit("worker.submit"); !failed.ok())
    return failed;
  if (yielded_) return absl::UnavailableError("the worker is draining");
  absl::StatusOr<worker::SequenceRequest> request = ToSequenceRequest(submit, now);
  if (!request.ok()) return request.status();
  return service_.engine_.Submit(shared_from_this(), *std::move(request));
}

// The router counts every sequence it sends, so this does, whatever becomes of it.
absl::Status WorkerService::RouterLink::TakeCredit(const v1::Submit& submit) {
  const std::lock_guard lock(mutex_);
  if (credit_.Take() || submit.goes_on() || service_.draining_) return absl::OkStatus();
  service_.ungranted_.fetch_add(1, std::memory_order_relaxed);
  return absl::ResourceExhaustedError(absl::StrFormat(
      "the worker has granted this router %d sequences, and this is one more", credit_.granted()));
}

void WorkerService::RouterLink::Refuse(uint64_t sequence, const absl::Status& status) {
  service_.refused_.fetch_add(1, std::memory_order_relaxed);
  SequenceEvent event{.id = sequence};
  event.end = worker::SequenceEnd{.status = status};
  Enqueue({std::move(event)});
}

void WorkerService::RouterLink::Enqueue(std::vector<SequenceEvent> events) {
  std::unique_lock lock(mutex_);
  for (SequenceEvent& event : events) {
    pending_bytes_ += BytesOf(event);
    pending_.push_back(std::move(event));
  }
  CutOrWrite(std::move(lock));
}

void WorkerService::RouterLink::CutOrWrite(std::unique_lock<std::mutex> lock) {
  if (left_) Discard();
  if (finished_ || cut_) return;
  if (pending_bytes_ > service_.options_.outbound_bytes)
    return Cut("does not read, and too much waits for it");
  if (writing_) return;
  const bool short_of_credit = !closing_ && credit_.urgent();
  if (!pending_.empty() || load_ || short_of_credit) return Write(std::move(lock));
  if (closing_) {
    finished_ = true;
    Finish(grpc::Status::OK);
  }
}

void WorkerService::RouterLink::Write(std::unique_lock<std::mutex> lock) {
  writing_ = true;
  const std::vector<SequenceEvent> events = TakePending();
  const std::optional<v1::WorkerLoad> load = std::exchange(load_, std::nullopt);
  const std::optional<v1::Orphans> orphans = std::exchange(orphans_, std::nullopt);
  const std::optional<uint64_t> granted = credit_.Tell();
  lock.unlock();
  FillMessage(events, load);
  if (orphans) *outgoing_.mutable_orphans() = *orphans;
  if (granted) outgoing_.set_granted(*granted);
  lock.lock();
  if (!finished_) StartWrite(&outgoing_);
}

void WorkerService::RouterLink::FillMessage(const std::vector<SequenceEvent>& events,
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

std::vector<SequenceEvent> WorkerService::RouterLink::TakePending() {
  std::vector<SequenceEvent> events;
  for (size_t bytes = 0; !pending_.empty() && bytes < kMessageBytes; pending_.pop_front()) {
    const size_t event_bytes = BytesOf(pending_.front());
    bytes += event_bytes;
    pending_bytes_ -= event_bytes;
    events.push_back(std::move(pending_.front()));
  }
  return events;
}

void WorkerService::RouterLink::Cut(const char* why) {
  cut_ = true;
  service_.links_cut_.fetch_add(1, std::memory_order_relaxed);
  LogWarning("router %s %s: cut", peer_, why);
  Discard();
  context_.TryCancel();
}

void WorkerService::RouterLink::Leave() {
  service_.engine_.CloseLink(this);
  std::unique_lock lock(mutex_);
  left_ = std::chrono::steady_clock::now();
  closing_ = true;
  CutOrWrite(std::move(lock));
}

void WorkerService::RouterLink::End(const grpc::Status& status) {
  service_.engine_.CloseLink(this);
  const std::lock_guard lock(mutex_);
  Discard();
  if (!std::exchange(finished_, true)) Finish(status);
}

void WorkerService::RouterLink::Discard() {
  pending_.clear();
  pending_bytes_ = 0;
  load_.reset();
  orphans_.reset();
}

}  // namespace conclave::services
