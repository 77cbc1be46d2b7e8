#include "services/bench/null_worker.h"

#include <mutex>
#include <unordered_map>
#include <utility>

#include "conclave/v1/worker.grpc.pb.h"
#include "scheduler/check.h"
#include "services/server.h"

namespace conclave::services::bench {

class NullWorker::Service final : public v1::Worker::CallbackService {
 public:
  explicit Service(const Options& options)
      : options_(options),
        pacer_(options.tick, [this](const std::vector<uint64_t>& ids) { OnDue(ids); }) {}

  grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker>* Serve(
      grpc::CallbackServerContext*) override {
    return new Link(*this);
  }

  void SetRun(std::shared_ptr<Flights> flights, std::chrono::microseconds pace) {
    const std::lock_guard lock(mutex_);
    flights_ = std::move(flights);
    pace_ = pace;
  }

  std::unique_ptr<Server> server;

 private:
  class Link;
  struct Sequence {
    Link* link = nullptr;
    std::shared_ptr<Flights> flights;
    std::chrono::microseconds pace{};
    v1::Submit submit;
    uint32_t sent = 0;
  };

  class Link : public grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker> {
   public:
    explicit Link(Service& service) : service_(service) {
      v1::WorkerHello& hello = *next_.mutable_hello();
      hello.set_worker_id("null");
      hello.set_incarnation(1);
      hello.mutable_model()->set_name("null");
      hello.mutable_model()->set_vocab_size(service.options_.vocab_size);
      hello.mutable_model()->set_context_limit(1 << 20);
      next_.set_granted(uint64_t{1} << 40);
      StartRead(&in_);
      const std::lock_guard lock(service_.mutex_);
      Write();
    }
    void OnReadDone(bool ok) override {
      if (!ok) return Finish(grpc::Status::OK);
      service_.OnMessage(*this, in_);
      in_.Clear();
      StartRead(&in_);
    }
    void OnWriteDone(bool ok) override {
      if (!ok) return;
      const std::lock_guard lock(service_.mutex_);
      writing_ = false;
      Write();
    }
    void OnDone() override {
      service_.Drop(*this);
      delete this;
    }

    // The service's mutex_ is held in both.
    v1::FromWorker& next() { return next_; }
    void Write() {
      if (writing_ || (!next_.has_hello() && next_.events().empty())) return;
      writing_ = true;
      out_.Swap(&next_);
      next_.Clear();
      StartWrite(&out_);
    }

   private:
    Service& service_;
    v1::ToWorker in_;
    v1::FromWorker out_, next_;
    bool writing_ = false;
  };

  void OnMessage(Link& link, v1::ToWorker& message) {
    const std::lock_guard lock(mutex_);
    for (v1::Submit& submit : *message.mutable_submit()) {
      const uint64_t id = ++last_;
      ids_[{&link, submit.sequence()}] = id;
      Sequence sequence{.link = &link, .flights = flights_, .pace = pace_};
      sequence.submit.Swap(&submit);
      Step(id, sequences_.emplace(id, std::move(sequence)).first->second);
    }
    for (const uint64_t sequence : message.cancel()) {
      const auto id = ids_.find({&link, sequence});
      if (id != ids_.end()) Erase(id->second);
    }
    link.Write();
  }

  void OnDue(const std::vector<uint64_t>& ids) {
    const std::lock_guard lock(mutex_);
    std::vector<Link*> links;
    for (const uint64_t id : ids) {
      const auto sequence = sequences_.find(id);
      if (sequence == sequences_.end()) continue;
      links.push_back(sequence->second.link);
      Step(id, sequence->second);
    }
    for (Link* const link : links) link->Write();
  }

  // mutex_ held in all below. The next token: those of the prompt, again and again.
  void Step(uint64_t id, Sequence& sequence) {
    const v1::Submit& submit = sequence.submit;
    v1::SequenceEvent& event = *sequence.link->next().add_events();
    event.set_sequence(submit.sequence());
    event.add_tokens(submit.prompt(static_cast<int>(sequence.sent) % submit.prompt_size()));
    sequence.flights->Send(submit.seed(), sequence.sent);
    if (++sequence.sent < submit.max_tokens()) {
      pacer_.At(Clock::now() + sequence.pace, id);
      return;
    }
    event.mutable_end()->set_reason(v1::End::LENGTH);
    Erase(id);
  }
  void Erase(uint64_t id) {
    const auto sequence = sequences_.find(id);
    ids_.erase({sequence->second.link, sequence->second.submit.sequence()});
    sequences_.erase(sequence);
  }
  void Drop(Link& link) {
    const std::lock_guard lock(mutex_);
    std::erase_if(sequences_, [&](const auto& entry) { return entry.second.link == &link; });
    std::erase_if(ids_, [&](const auto& entry) { return entry.first.first == &link; });
  }

  struct HashKey {
    size_t operator()(const std::pair<Link*, uint64_t>& key) const {
      return std::hash<Link*>()(key.first) ^ (key.second * 0x9e3779b97f4a7c15u);
    }
  };

  const Options options_;
  std::mutex mutex_;
  std::shared_ptr<Flights> flights_;
  std::chrono::microseconds pace_{};
  uint64_t last_ = 0;
  std::unordered_map<uint64_t, Sequence> sequences_;
  std::unordered_map<std::pair<Link*, uint64_t>, uint64_t, HashKey> ids_;
  Pacer pacer_;  // ends before what its thread uses
};

NullWorker::NullWorker(const Options& options) : service_(std::make_unique<Service>(options)) {
  auto server =
      Server::Start({}, Credentials(), {{v1::Worker::service_full_name(), service_.get()}});
  CONCLAVE_CHECK(server.ok());
  service_->server = *std::move(server);
  address_ = service_->server->address().ToString();
}

NullWorker::~NullWorker() { service_->server.reset(); }

void NullWorker::Serve(std::shared_ptr<Flights> flights, std::chrono::microseconds pace) {
  service_->SetRun(std::move(flights), pace);
}

}  // namespace conclave::services::bench
