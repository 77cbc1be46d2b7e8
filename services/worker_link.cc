#include "services/worker_link.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "conclave/v1/worker.grpc.pb.h"
#include "services/grpc_status.h"
#include "services/log.h"

namespace conclave::services {

// Outlives its stream: Shutdown waits until the stream is deleted, so that the last share of the
// channel never goes on a gRPC thread, where destroying a channel crashes (gRPC 1.51).
class WorkerLink::Impl {
 public:
  Impl(const Options& options, const Credentials& credentials, std::function<void()> on_change)
      : options_(options),
        stub_(v1::Worker::NewStub(MakeChannel(options.address, credentials, options.channel))),
        on_change_(std::move(on_change)),
        backoff_(options.backoff_min) {}

  void Tick(Micros now);
  void Shutdown();
  std::optional<uint64_t> Open(v1::Submit submit, std::shared_ptr<SequenceSink> sink);
  void Close(uint64_t sequence);
  void SetPaused(uint64_t sequence, bool paused);
  void Hold() {
    std::lock_guard lock(mutex_);
    ++holds_;
  }
  void Release() {
    std::lock_guard lock(mutex_);
    --holds_;
    MaybeWrite();
  }

  const std::string& address() const { return options_.address; }
  std::string name() const {
    std::lock_guard lock(mutex_);
    return Name();
  }
  std::optional<v1::WorkerHello> hello() const {
    std::lock_guard lock(mutex_);
    return hello_;
  }
  v1::WorkerLoad load() const {
    std::lock_guard lock(mutex_);
    return load_;
  }
  bool draining() const {
    std::lock_guard lock(mutex_);
    return load_.draining();
  }
  bool takes_leftovers() const {
    std::lock_guard lock(mutex_);
    return !broken_ && !yielded_;
  }
  void AnswerDrain(size_t still_waiting);
  Micros silence() const {
    std::lock_guard lock(mutex_);
    return broken_ ? Micros(0) : now_ - heard_;
  }
  bool pulses() const {
    std::lock_guard lock(mutex_);
    return hello_ && hello_->pulse_ms() > 0;
  }
  std::optional<uint64_t> credit() const {
    std::lock_guard lock(mutex_);
    return Credit();
  }
  bool keeps(const std::string& request_id) const {
    std::lock_guard lock(mutex_);
    return orphans_.count(request_id) > 0;
  }
  void Break() {
    std::lock_guard lock(mutex_);
    if (stream_ != nullptr) stream_->Cancel();
  }
  Stats stats() const {
    std::lock_guard lock(mutex_);
    Stats stats = stats_;
    stats.sequences = sequences_.size();
    stats.credit = Credit();
    return stats;
  }

 private:
  // One life of the stream. Deletes itself in OnDone, the last reaction.
  class Stream : public grpc::ClientBidiReactor<v1::ToWorker, v1::FromWorker> {
   public:
    explicit Stream(Impl& link) : link_(link) {}

    void Start() {
      context_.set_wait_for_ready(true);
      link_.stub_->async()->Serve(&context_, this);
      AddHold();  // writes start outside reactions
      StartRead(&in_);
      StartCall();
    }
    void Write(v1::ToWorker message) {
      out_ = std::move(message);
      StartWrite(&out_);
    }
    void Cancel() { context_.TryCancel(); }

    void OnReadDone(bool ok) override {
      if (!ok) {
        link_.OnBroken();  // from here on nobody writes
        RemoveHold();
        return;
      }
      link_.OnMessage(in_);
      in_.Clear();
      StartRead(&in_);
    }
    void OnWriteDone(bool ok) override {
      if (ok) link_.OnWritten();
    }
    void OnDone(const grpc::Status& status) override {
      Impl& link = link_;
      link.OnStreamDone(FromGrpc(status));
      delete this;
      link.SetIdle();
    }

   private:
    Impl& link_;
    grpc::ClientContext context_;
    v1::FromWorker in_;
    v1::ToWorker out_;
  };

  std::string Name() const {  // under mutex_
    return (id_.empty() ? "a worker" : "worker " + id_) + " at " + options_.address;
  }
  void OnMessage(const v1::FromWorker& message);
  void OnWritten();
  void OnBroken();
  void OnStreamDone(const absl::Status& status);
  void SetIdle();

  // Delivers one event; whether the worker refused the sequence because it drains.
  bool Deliver(const v1::SequenceEvent& event);
  std::optional<uint64_t> Credit() const;  // mutex_ held
  void MaybeWrite();                       // mutex_ held
  v1::ToWorker TakeOutbound();             // mutex_ held
  bool ForgetUnsent(uint64_t sequence);    // mutex_ held

  const Options options_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  const std::function<void()> on_change_;

  mutable std::mutex mutex_;
  Stream* stream_ = nullptr;
  bool broken_ = true;  // the stream can carry nothing more
  bool idle_ = true;    // no stream is left
  std::condition_variable done_;
  bool shut_ = false;
  bool writing_ = false;
  int holds_ = 0;              // batches that wait for their end
  bool yielded_ = false;       // the worker drains and gets nothing more
  bool said_waiting_ = false;  // it was told that there is more
  Micros heard_{0};
  std::string id_;  // as last said
  std::optional<v1::WorkerHello> hello_;
  v1::WorkerLoad load_;
  std::unordered_set<std::string> orphans_;
  std::unordered_map<uint64_t, std::shared_ptr<SequenceSink>> sequences_;
  uint64_t last_sequence_ = 0;
  // Since the stream began.
  std::optional<uint64_t> granted_;
  uint64_t submitted_ = 0;
  // Waits for the next message.
  std::deque<v1::Submit> submits_;
  std::vector<uint64_t> cancels_, pauses_, resumes_;
  std::optional<size_t> still_waiting_;
  Micros next_attempt_{0};
  Micros backoff_;
  Micros now_{0};  // of the last Tick
  Stats stats_;
};

void WorkerLink::Impl::Tick(Micros now) {
  Stream* opened = nullptr;
  {
    std::lock_guard lock(mutex_);
    // As long as nobody called, nobody listened either.
    heard_ += std::max(Micros(0), now - now_ - options_.late_tick);
    now_ = now;
    if (!idle_ || shut_ || now < next_attempt_) return;
    opened = stream_ = new Stream(*this);
    idle_ = false;
    broken_ = false;
    writing_ = false;
    yielded_ = false;
    said_waiting_ = false;
    heard_ = now;
    ++stats_.streams;
  }
  opened->Start();
}

void WorkerLink::Impl::Shutdown() {
  std::unordered_map<uint64_t, std::shared_ptr<SequenceSink>> dropped;
  std::unique_lock lock(mutex_);
  shut_ = true;
  dropped.swap(sequences_);
  if (stream_ != nullptr) stream_->Cancel();
  done_.wait(lock, [this] { return idle_; });
}

std::optional<uint64_t> WorkerLink::Impl::Open(v1::Submit submit,
                                               std::shared_ptr<SequenceSink> sink) {
  std::lock_guard lock(mutex_);
  if (broken_ || shut_ || yielded_ || !hello_) return std::nullopt;
  if (!submit.goes_on() && Credit() == 0) return std::nullopt;
  ++submitted_;
  const uint64_t sequence = ++last_sequence_;
  submit.set_sequence(sequence);
  sequences_[sequence] = std::move(sink);
  submits_.push_back(std::move(submit));
  MaybeWrite();
  return sequence;
}

void WorkerLink::Impl::Close(uint64_t sequence) {
  std::lock_guard lock(mutex_);
  if (sequences_.erase(sequence) == 0 || ForgetUnsent(sequence)) return;
  cancels_.push_back(sequence);
  MaybeWrite();
}

void WorkerLink::Impl::SetPaused(uint64_t sequence, bool paused) {
  std::lock_guard lock(mutex_);
  if (sequences_.count(sequence) == 0) return;
  // Only the last word counts: a pause and a resume may wait for the same message.
  auto& said = paused ? resumes_ : pauses_;
  said.erase(std::remove(said.begin(), said.end(), sequence), said.end());
  (paused ? pauses_ : resumes_).push_back(sequence);
  MaybeWrite();
}

void WorkerLink::Impl::AnswerDrain(size_t still_waiting) {
  std::lock_guard lock(mutex_);
  if (!load_.draining() || yielded_ || (said_waiting_ && still_waiting > 0)) return;
  yielded_ = still_waiting == 0;
  said_waiting_ = true;
  still_waiting_ = still_waiting;
  MaybeWrite();
}

bool WorkerLink::Impl::ForgetUnsent(uint64_t sequence) {
  const auto unsent = std::find_if(submits_.begin(), submits_.end(), [&](const v1::Submit& submit) {
    return submit.sequence() == sequence;
  });
  if (unsent == submits_.end()) return false;
  submits_.erase(unsent);
  --submitted_;
  return true;
}

std::optional<uint64_t> WorkerLink::Impl::Credit() const {
  if (!granted_ || load_.draining()) return std::nullopt;
  return *granted_ - std::min(*granted_, submitted_);
}

void WorkerLink::Impl::MaybeWrite() {
  if (writing_ || holds_ > 0 || broken_ || !hello_) return;
  if (submits_.empty() && cancels_.empty() && pauses_.empty() && resumes_.empty() &&
      !still_waiting_) {
    return;
  }
  writing_ = true;
  ++stats_.messages_out;
  stream_->Write(TakeOutbound());
}

v1::ToWorker WorkerLink::Impl::TakeOutbound() {
  v1::ToWorker message;
  int64_t bytes = 0;
  while (!submits_.empty()) {
    bytes += static_cast<int64_t>(submits_.front().ByteSizeLong());
    if (message.submit_size() > 0 && bytes > options_.message_bytes) break;
    *message.add_submit() = std::move(submits_.front());
    submits_.pop_front();
  }
  message.mutable_cancel()->Assign(cancels_.begin(), cancels_.end());
  message.mutable_pause()->Assign(pauses_.begin(), pauses_.end());
  message.mutable_resume()->Assign(resumes_.begin(), resumes_.end());
  cancels_.clear();
  pauses_.clear();
  resumes_.clear();
  // The last word comes after the last submit.
  if (still_waiting_ && submits_.empty()) {
    message.set_still_waiting(static_cast<uint32_t>(*std::exchange(still_waiting_, std::nullopt)));
  }
  return message;
}

void WorkerLink::Impl::OnMessage(const v1::FromWorker& message) {
  bool changed = false;
  {
    std::lock_guard lock(mutex_);
    ++stats_.messages_in;
    heard_ = now_;
    if (message.has_hello()) {
      hello_ = message.hello();
      id_ = hello_->worker_id();
      load_.Clear();
      orphans_.clear();
      granted_.reset();
      submitted_ = 0;
      backoff_ = options_.backoff_min;
      changed = true;
    }
    if (message.has_orphans()) {
      const auto& names = message.orphans().request_ids();
      orphans_ = {names.begin(), names.end()};
    }
    if (message.has_load()) {
      changed = changed || message.load().draining() != load_.draining();
      load_ = message.load();
    }
    if (message.has_granted()) {
      const bool had_none = Credit() == 0;
      granted_ = std::max(granted_.value_or(0), message.granted());
      changed = changed || (had_none && Credit() != 0);
    }
  }
  bool refused = false;
  for (const v1::SequenceEvent& event : message.events()) refused = Deliver(event) || refused;
  if (message.has_hello()) {
    LogInfo("%s is linked: model %s, numerics %s", name(), message.hello().model().name(),
            message.hello().model().numerics());
  }
  if (changed || refused) on_change_();
}

bool WorkerLink::Impl::Deliver(const v1::SequenceEvent& event) {
  const bool refused = event.end().reason() == v1::End::ERROR &&
                       event.end().code() == static_cast<int>(absl::StatusCode::kUnavailable);
  std::shared_ptr<SequenceSink> sink;
  {
    std::lock_guard lock(mutex_);
    // Before its sink hears of it and asks for another home, which must not be this one again.
    if (refused && load_.draining()) yielded_ = true;
    const auto found = sequences_.find(event.sequence());
    if (found == sequences_.end()) return refused;  // closed meanwhile
    sink = found->second;
    if (event.has_end()) sequences_.erase(found);
  }
  sink->OnEvent(event);
  return refused;
}

void WorkerLink::Impl::OnWritten() {
  std::lock_guard lock(mutex_);
  writing_ = false;
  MaybeWrite();
}

void WorkerLink::Impl::OnBroken() {
  std::lock_guard lock(mutex_);
  broken_ = true;
}

void WorkerLink::Impl::OnStreamDone(const absl::Status& status) {
  std::unordered_map<uint64_t, std::shared_ptr<SequenceSink>> lost;
  bool was_up = false;
  bool shut = false;
  {
    std::lock_guard lock(mutex_);
    stream_ = nullptr;
    broken_ = true;
    was_up = hello_.has_value();
    shut = shut_;
    hello_.reset();
    lost.swap(sequences_);
    submits_.clear();
    cancels_.clear();
    pauses_.clear();
    resumes_.clear();
    still_waiting_.reset();
    next_attempt_ = now_ + backoff_;
    backoff_ = std::min(backoff_ * 2, options_.backoff_max);
  }
  if (was_up && !shut) {
    LogWarning("the link to %s ended: %s", name(),
               status.ok() ? "it has closed it" : status.ToString());
    // First the view, so that a sink that asks for another home is not sent here.
    on_change_();
    for (const auto& [sequence, sink] : lost) sink->OnLost(status);
  }
}

void WorkerLink::Impl::SetIdle() {
  std::lock_guard lock(mutex_);
  idle_ = true;
  done_.notify_all();
}

WorkerLink::WorkerLink(const Options& options, const Credentials& credentials,
                       std::function<void()> on_change)
    : impl_(std::make_unique<Impl>(options, credentials, std::move(on_change))) {}
WorkerLink::~WorkerLink() { impl_->Shutdown(); }

const std::string& WorkerLink::address() const { return impl_->address(); }
std::string WorkerLink::name() const { return impl_->name(); }
void WorkerLink::Shutdown() { impl_->Shutdown(); }
void WorkerLink::Tick(Micros now) { impl_->Tick(now); }
std::optional<v1::WorkerHello> WorkerLink::hello() const { return impl_->hello(); }
v1::WorkerLoad WorkerLink::load() const { return impl_->load(); }
bool WorkerLink::draining() const { return impl_->draining(); }
bool WorkerLink::takes_leftovers() const { return impl_->takes_leftovers(); }
void WorkerLink::AnswerDrain(size_t still_waiting) { impl_->AnswerDrain(still_waiting); }
WorkerLink::Micros WorkerLink::silence() const { return impl_->silence(); }
bool WorkerLink::pulses() const { return impl_->pulses(); }
std::optional<uint64_t> WorkerLink::credit() const { return impl_->credit(); }
bool WorkerLink::keeps(const std::string& request_id) const { return impl_->keeps(request_id); }
void WorkerLink::Break() { impl_->Break(); }
std::optional<uint64_t> WorkerLink::Open(v1::Submit submit, std::shared_ptr<SequenceSink> sink) {
  return impl_->Open(std::move(submit), std::move(sink));
}
void WorkerLink::Close(uint64_t sequence) { impl_->Close(sequence); }
void WorkerLink::SetPaused(uint64_t sequence, bool paused) { impl_->SetPaused(sequence, paused); }
WorkerLink::Stats WorkerLink::stats() const { return impl_->stats(); }
WorkerLink::Batch::Batch(WorkerLink& link) : link_(link) { link_.impl_->Hold(); }
WorkerLink::Batch::~Batch() { link_.impl_->Release(); }

}  // namespace conclave::services
