#include "tests/cluster/fake_worker.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <set>
#include <utility>

#include "absl/status/status.h"

namespace conclave::testing {

// All state under one mutex: a fake may be slow, it may not be wrong.
class FakeWorker::Service : public v1::Worker::CallbackService {
 public:
  explicit Service(const Options& options)
      : options_(options), granted_(options.granted), manual_(options.manual) {}

  grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker>* Serve(
      grpc::CallbackServerContext* context) override;

  struct Sequence {
    LinkReactor* link = nullptr;
    v1::Submit submit;
    uint32_t sampled = 0;
    bool paused = false;
    bool scored = false;
    uint32_t routed = 0;  // tokens of the prompt
  };

  void Take(LinkReactor* link, const v1::ToWorker& message);
  void Open(LinkReactor* link);
  void Drop(LinkReactor* link);
  bool Step();
  void Sample(Sequence& sequence, v1::SequenceEvent& event);
  bool Route(Sequence& sequence, v1::Routing& routing) const;
  v1::WorkerHello Hello() const;
  v1::WorkerLoad Load() const;
  void TellLoad();
  Counts CountsNow() const;

  const Options options_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::set<LinkReactor*> links_;
  std::deque<Sequence> sequences_;
  Counts counts_;
  std::optional<uint64_t> granted_;
  bool manual_ = false;
  bool draining_ = false;
  bool takes_leftovers_ = false;
  std::vector<std::string> late_;
  std::string lacks_;
  bool full_ = false;
  bool stopping_ = false;
};

// One router's stream. What is to be written waits in one message.
class FakeWorker::LinkReactor : public grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker> {
 public:
  LinkReactor(Service* service, grpc::CallbackServerContext* context)
      : service_(service), context_(context) {
    std::lock_guard lock(service_->mutex_);
    service_->links_.insert(this);
    *pending_.mutable_hello() = service_->Hello();
    *pending_.mutable_load() = service_->Load();
    if (service_->granted_) pending_.set_granted(*service_->granted_);
    MaybeWrite();
    StartRead(&in_);
  }

  // mutex_ of the service held, for all that follows but the reactions.
  v1::FromWorker& pending() { return pending_; }
  bool busy() const { return writing_; }
  uint64_t submitted = 0;
  void MaybeWrite() {
    if (writing_ || finished_) return;
    const bool news = pending_.has_hello() || pending_.has_load() || pending_.has_granted();
    if (!news && pending_.events().empty()) return;
    out_ = std::move(pending_);
    pending_.Clear();
    writing_ = true;
    StartWrite(&out_);
  }
  void Cancel() { context_->TryCancel(); }

  void OnReadDone(bool ok) override {
    if (ok) {
      service_->Take(this, in_);
      in_.Clear();
      StartRead(&in_);
      return;
    }
    std::lock_guard lock(service_->mutex_);
    finished_ = true;
    Finish(grpc::Status::OK);
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(service_->mutex_);
    writing_ = false;
    if (ok) MaybeWrite();
    service_->changed_.notify_all();
  }
  void OnDone() override {
    service_->Drop(this);
    delete this;
  }

 private:
  Service* const service_;
  grpc::CallbackServerContext* const context_;
  v1::ToWorker in_;
  v1::FromWorker out_, pending_;
  bool writing_ = false;
  bool finished_ = false;
};

grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker>* FakeWorker::Service::Serve(
    grpc::CallbackServerContext* context) {
  return new LinkReactor(this, context);
}

void FakeWorker::Service::Take(LinkReactor* link, const v1::ToWorker& message) {
  std::lock_guard lock(mutex_);
  ++counts_.messages;
  for (const v1::Submit& submit : message.submit()) {
    ++counts_.submits;
    counts_.went_on += submit.goes_on();
    counts_.ungranted += granted_ && ++link->submitted > *granted_ && !submit.goes_on();
    counts_.last_timeout_us =
        submit.has_timeout_us() ? std::optional(submit.timeout_us()) : std::nullopt;
    counts_.last_submit = submit;
    counts_.probes += submit.reads_at_once();
    if (submit.reads_at_once()) counts_.last_probe = submit;
    if ((!draining_ || takes_leftovers_) && !full_) {
      const auto sampled = static_cast<uint32_t>(submit.generated_size());
      sequences_.push_back(
          {.link = link, .submit = submit, .sampled = sampled, .routed = submit.routing_told()});
      continue;
    }
    v1::SequenceEvent* const event = link->pending().add_events();
    event->set_sequence(submit.sequence());
    event->mutable_end()->set_reason(v1::End::ERROR);
    const auto code =
        draining_ ? absl::StatusCode::kUnavailable : absl::StatusCode::kResourceExhausted;
    event->mutable_end()->set_code(static_cast<int>(code));
    event->mutable_end()->set_message(draining_ ? "draining" : "full");
  }
  const auto find = [&](uint64_t id) {
    return std::find_if(sequences_.begin(), sequences_.end(), [&](const Sequence& sequence) {
      return sequence.link == link && sequence.submit.sequence() == id;
    });
  };
  for (const uint64_t id : message.cancel()) {
    ++counts_.cancels;
    if (auto sequence = find(id); sequence != sequences_.end()) sequences_.erase(sequence);
  }
  for (const uint64_t id : message.pause()) {
    ++counts_.pauses;
    if (auto sequence = find(id); sequence != sequences_.end()) sequence->paused = true;
  }
  for (const uint64_t id : message.resume()) {
    ++counts_.resumes;
    if (auto sequence = find(id); sequence != sequences_.end()) sequence->paused = false;
  }
  link->MaybeWrite();
  changed_.notify_all();
}

void FakeWorker::Service::Drop(LinkReactor* link) {
  std::lock_guard lock(mutex_);
  links_.erase(link);
  std::erase_if(sequences_, [&](const Sequence& sequence) { return sequence.link == link; });
  changed_.notify_all();
}

// False if nobody could run.
bool FakeWorker::Service::Step() {
  int ran = 0;
  for (auto sequence = sequences_.begin();
       sequence != sequences_.end() && ran < options_.running;) {
    if (sequence->paused || sequence->link->busy()) {
      ++sequence;
      continue;
    }
    ++ran;
    v1::SequenceEvent* const event = sequence->link->pending().add_events();
    Sample(*sequence, *event);
    sequence = event->has_end() ? sequences_.erase(sequence) : std::next(sequence);
  }
  for (LinkReactor* const link : links_) {
    if (link->pending().events().empty()) continue;
    *link->pending().mutable_load() = Load();
    link->MaybeWrite();
  }
  if (ran > 0) changed_.notify_all();
  return ran > 0;
}

void FakeWorker::Service::Sample(Sequence& sequence, v1::SequenceEvent& event) {
  const v1::Submit& submit = sequence.submit;
  event.set_sequence(submit.sequence());
  if (submit.prompt_logprobs() && !std::exchange(sequence.scored, true)) {
    const auto told = static_cast<int>(submit.prompt_logprobs_told());
    for (int i = 1 + told; i < submit.prompt_size(); ++i) {
      v1::TokenLogprob* const logprob = event.add_prompt_logprobs();
      logprob->set_token_id(submit.prompt(i));
      logprob->set_logprob(-0.5f * static_cast<float>(i));
    }
  }
  if (submit.routing() && options_.gate && !Route(sequence, *event.mutable_routing())) return;
  if (submit.max_tokens() == 0) return event.mutable_end()->set_reason(v1::End::SCORED);
  const uint32_t index = sequence.sampled++;
  const uint32_t token =
      options_.token ? options_.token(submit, index) : FakeWorker::HashedToken(submit, index);
  event.add_tokens(token);
  ++counts_.tokens;
  if (submit.has_logprobs()) {
    v1::TokenLogprob* const logprob = event.add_logprobs();
    logprob->set_token_id(token);
    logprob->set_logprob(-1.0f);
    for (uint32_t i = 0; i < submit.logprobs(); ++i) {
      auto* const candidate = logprob->add_top();
      candidate->set_token_id(i);
      candidate->set_logprob(-1.0f - static_cast<float>(i));
    }
  }
  const auto& stops = submit.stop_token_ids();
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    event.mutable_end()->set_reason(v1::End::STOP);
  } else if (sequence.sampled == submit.max_tokens()) {
    event.mutable_end()->set_reason(v1::End::LENGTH);
  }
}

// Of the next tokens of its prompt; whether these are the last.
bool FakeWorker::Service::Route(Sequence& sequence, v1::Routing& routing) const {
  const v1::Submit& submit = sequence.submit;
  const auto size = static_cast<uint32_t>(submit.prompt_size());
  const uint32_t until = std::min(size, sequence.routed + options_.report_tokens);
  routing.set_layers(kMoeLayers);
  routing.set_top_k(1);
  routing.set_experts(kSlots);
  const float weight = 1.0f;
  for (; sequence.routed < until; ++sequence.routed) {
    const uint16_t slot = options_.gate(submit.prompt(static_cast<int>(sequence.routed)));
    for (uint32_t layer = 0; layer < kMoeLayers; ++layer) {
      routing.mutable_slots()->append(reinterpret_cast<const char*>(&slot), sizeof(slot));
      routing.mutable_weights()->append(reinterpret_cast<const char*>(&weight), sizeof(weight));
    }
  }
  return until == size;
}

v1::WorkerHello FakeWorker::Service::Hello() const {
  v1::WorkerHello hello;
  hello.set_worker_id(options_.id);
  hello.set_incarnation(1);
  hello.set_pulse_ms(options_.pulse_ms);
  v1::ModelInfo& model = *hello.mutable_model();
  model.set_name(options_.model);
  model.set_family("fake");
  model.set_digest("digest of " + options_.model);
  model.set_numerics("none");
  model.set_vocab_size(kVocabSize);
  model.set_context_limit(options_.context_limit);
  model.add_eos_token_ids(kEos);
  model.set_default_temperature(0.25f);
  if (!options_.gate) return hello;
  model.set_moe_layers(kMoeLayers);
  model.set_experts(kSlots);
  model.set_top_k(1);
  return hello;
}

v1::WorkerLoad FakeWorker::Service::Load() const {
  v1::WorkerLoad load;
  load.set_running(static_cast<uint32_t>(sequences_.size()));
  load.set_draining(draining_);
  load.mutable_late()->Assign(late_.begin(), late_.end());
  load.set_lacks(lacks_);
  return load;
}

void FakeWorker::Service::TellLoad() {
  for (LinkReactor* const link : links_) {
    *link->pending().mutable_load() = Load();
    link->MaybeWrite();
  }
}

FakeWorker::Counts FakeWorker::Service::CountsNow() const {
  Counts counts = counts_;
  counts.live = sequences_.size();
  counts.links = links_.size();
  for (const Sequence& sequence : sequences_) counts.paused += sequence.paused;
  return counts;
}

uint32_t FakeWorker::HashedToken(const v1::Submit& submit, uint32_t index) {
  uint64_t hash = submit.seed() + 0x9e3779b97f4a7c15u;
  for (const uint32_t token : submit.prompt()) hash = (hash ^ token) * 0x100000001b3u;
  hash = (hash ^ index) * 0xbf58476d1ce4e5b9u;
  return 'a' + static_cast<uint32_t>((hash >> 33) % 26);
}

FakeWorker::FakeWorker(const Options& options)
    : options_(options), service_(std::make_unique<Service>(options)) {
  StartServer(options.listen);
  thread_ = std::thread([this] { Run(); });
}

FakeWorker::~FakeWorker() {
  {
    std::lock_guard lock(service_->mutex_);
    service_->stopping_ = true;
    service_->changed_.notify_all();
  }
  thread_.join();
  Crash();
}

void FakeWorker::StartServer(const std::string& listen) {
  auto server = services::Server::Start({.listen = listen}, services::Credentials(),
                                        {{v1::Worker::service_full_name(), service_.get()}});
  EXPECT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  address_ = server_->address().ToString();
}

std::string FakeWorker::address() const { return address_; }

FakeWorker::Counts FakeWorker::counts() const {
  std::lock_guard lock(service_->mutex_);
  return service_->CountsNow();
}

bool FakeWorker::WaitFor(const std::function<bool(const Counts&)>& condition) const {
  std::unique_lock lock(service_->mutex_);
  return service_->changed_.wait_for(lock, std::chrono::seconds(30),
                                     [&] { return condition(service_->CountsNow()); });
}

// Whoever has a message on its way to the router has its turn once that is written.
void FakeWorker::Step() {
  const auto busy = [this] {
    return std::any_of(
        service_->sequences_.begin(), service_->sequences_.end(),
        [](const auto& sequence) { return !sequence.paused && sequence.link->busy(); });
  };
  std::unique_lock lock(service_->mutex_);
  while (busy()) {
    lock.unlock();
    std::this_thread::yield();
    lock.lock();
  }
  service_->Step();
}

void FakeWorker::SetManual(bool manual) {
  std::lock_guard lock(service_->mutex_);
  service_->manual_ = manual;
  service_->changed_.notify_all();
}

void FakeWorker::Drain() {
  std::lock_guard lock(service_->mutex_);
  service_->draining_ = true;
  service_->TellLoad();
}

void FakeWorker::DrainTakingLeftovers() {
  {
    std::lock_guard lock(service_->mutex_);
    service_->takes_leftovers_ = true;
  }
  Drain();
}

void FakeWorker::Grant(uint64_t more) {
  std::lock_guard lock(service_->mutex_);
  service_->granted_ = service_->granted_.value_or(0) + more;
  for (LinkReactor* const link : service_->links_) {
    link->pending().set_granted(*service_->granted_);
    link->MaybeWrite();
  }
}

void FakeWorker::FindLate(std::vector<std::string> ids) {
  std::lock_guard lock(service_->mutex_);
  service_->late_ = std::move(ids);
  service_->TellLoad();
}

void FakeWorker::Lack(std::string expert) {
  std::lock_guard lock(service_->mutex_);
  service_->lacks_ = std::move(expert);
  service_->TellLoad();
}

void FakeWorker::EndForWantOf(const std::string& expert) {
  std::lock_guard lock(service_->mutex_);
  for (const Service::Sequence& sequence : std::exchange(service_->sequences_, {})) {
    v1::SequenceEvent* const event = sequence.link->pending().add_events();
    event->set_sequence(sequence.submit.sequence());
    event->mutable_end()->set_reason(v1::End::ERROR);
    event->mutable_end()->set_code(static_cast<int>(absl::StatusCode::kUnavailable));
    event->mutable_end()->set_message("no live owner for expert " + expert);
    event->mutable_end()->set_lacks_expert(true);
    sequence.link->MaybeWrite();
  }
}

void FakeWorker::SetFull(bool full) {
  std::lock_guard lock(service_->mutex_);
  service_->full_ = full;
}

void FakeWorker::Crash() {
  if (server_ == nullptr) return;
  {
    std::lock_guard lock(service_->mutex_);
    for (LinkReactor* const link : service_->links_) link->Cancel();
  }
  server_.reset();
}

void FakeWorker::Revive() { StartServer(address_); }

void FakeWorker::Run() {
  Service& service = *service_;
  std::unique_lock lock(service.mutex_);
  while (!service.stopping_) {
    const bool stepped = !service.manual_ && service.Step();
    if (!stepped) {
      service.changed_.wait(lock);
    } else if (options_.step_time.count() > 0) {
      // The time a step takes; not a wait for anything.
      service.changed_.wait_for(lock, options_.step_time, [&] { return service.stopping_; });
    }
  }
}

}  // namespace conclave::testing
