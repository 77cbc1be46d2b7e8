#include "services/bench/direct.h"

#include <mutex>
#include <unordered_map>
#include <utility>

#include "conclave/v1/inference.grpc.pb.h"
#include "scheduler/check.h"
#include "services/server.h"

namespace conclave::services::bench {

class Direct::Service final : public v1::Inference::CallbackService {
 public:
  explicit Service(std::chrono::microseconds tick)
      : pacer_(tick, [this](const std::vector<uint64_t>& ids) { OnDue(ids); }) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext*, const v1::GenerateRequest* request) override {
    auto* const stream = new Stream(*this, *request);
    stream->Step();
    return stream;
  }

  void SetRun(std::shared_ptr<Flights> flights, std::chrono::microseconds pace) {
    const std::lock_guard lock(mutex_);
    flights_ = std::move(flights);
    pace_ = pace;
  }

  std::unique_ptr<Server> server;

 private:
  class Stream : public grpc::ServerWriteReactor<v1::GenerateResponse> {
   public:
    Stream(Service& service, const v1::GenerateRequest& request)
        : service_(service),
          seed_(request.sampling().seed()),
          max_tokens_(request.stopping().max_tokens()) {
      const std::lock_guard lock(service_.mutex_);
      flights_ = service_.flights_;
      pace_ = service_.pace_;
      id_ = ++service_.last_;
      service_.streams_[id_] = this;
    }
    // One more token.
    void Step() {
      const std::lock_guard lock(mutex_);
      if (finished_) return;
      next_.add_token_ids(7);
      next_.set_text(next_.text() + "word ");
      flights_->Send(seed_, made_++);
      if (made_ < max_tokens_) service_.pacer_.At(Clock::now() + pace_, id_);
      Write();
    }
    void OnWriteDone(bool ok) override {
      const std::lock_guard lock(mutex_);
      writing_ = false;
      if (ok) return Write();
      if (!std::exchange(finished_, true)) Finish(grpc::Status::CANCELLED);
    }
    void OnDone() override {
      {
        const std::lock_guard lock(service_.mutex_);
        service_.streams_.erase(id_);
      }
      delete this;
    }

   private:
    void Write() {  // mutex_ held
      if (writing_ || finished_ || next_.token_ids().empty()) return;
      writing_ = true;
      out_.Swap(&next_);
      next_.Clear();
      if (made_ < max_tokens_) return StartWrite(&out_);
      finished_ = true;
      out_.set_finish_reason(v1::FINISH_REASON_LENGTH);
      StartWriteAndFinish(&out_, grpc::WriteOptions(), grpc::Status::OK);
    }

    Service& service_;
    const uint64_t seed_;
    const uint32_t max_tokens_;
    std::shared_ptr<Flights> flights_;
    std::chrono::microseconds pace_{};
    uint64_t id_ = 0;
    std::mutex mutex_;
    uint32_t made_ = 0;
    v1::GenerateResponse out_, next_;
    bool writing_ = false;
    bool finished_ = false;
  };

  void OnDue(const std::vector<uint64_t>& ids) {
    const std::lock_guard lock(mutex_);  // a stream that is there now is not deleted meanwhile
    for (const uint64_t id : ids) {
      if (const auto stream = streams_.find(id); stream != streams_.end()) stream->second->Step();
    }
  }

  std::mutex mutex_;
  std::shared_ptr<Flights> flights_;
  std::chrono::microseconds pace_{};
  uint64_t last_ = 0;
  std::unordered_map<uint64_t, Stream*> streams_;
  Pacer pacer_;
};

Direct::Direct(std::chrono::microseconds tick) : service_(std::make_unique<Service>(tick)) {
  auto server =
      Server::Start({}, Credentials(), {{v1::Inference::service_full_name(), service_.get()}});
  CONCLAVE_CHECK(server.ok());
  service_->server = *std::move(server);
  address_ = service_->server->address().ToString();
}

Direct::~Direct() { service_->server.reset(); }

void Direct::Serve(std::shared_ptr<Flights> flights, std::chrono::microseconds pace) {
  service_->SetRun(std::move(flights), pace);
}

}  // namespace conclave::services::bench
