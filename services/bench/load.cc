#include "services/bench/load.h"

#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_set>
#include <utility>

#include "services/channel.h"

namespace conclave::services::bench {
namespace {

// About what a short question has.
constexpr char kPrompt[] =
    "The committee met on Thursday to discuss the plan. Each of the members had read the report, "
    "and nobody had found a mistake in it. What should they do next, and why would that be wise?";

}  // namespace

struct Load::State {
  std::mutex mutex;
  std::condition_variable ended;
  std::unordered_set<Call*> calls;
  Counts counts;
};

// Deletes itself when it has ended.
class Load::Call : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(State& state, std::shared_ptr<Flights> flights, uint64_t number)
      : state_(state), flights_(std::move(flights)), number_(number) {
    const std::lock_guard lock(state_.mutex);
    state_.calls.insert(this);
    ++state_.counts.open;
  }
  void Start(v1::Inference::Stub& stub, const v1::GenerateRequest& request) {
    flights_->Begin(number_);
    stub.async()->Generate(&context_, &request, this);
    StartRead(&in_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    messages_ += in_.token_ids_size() > 0;
    for (int i = 0; i < in_.token_ids_size(); ++i) flights_->Hear(number_, tokens_++);
    in_.Clear();
    StartRead(&in_);
  }
  void OnDone(const grpc::Status& status) override {
    {
      const std::lock_guard lock(state_.mutex);
      Counts& counts = state_.counts;
      const bool served = status.ok() && tokens_ == flights_->tokens();
      ++(served ? counts.served : counts.failed);
      if (!served && counts.why.empty())
        counts.why = status.ok() ? "tokens are missing" : status.error_message();
      counts.messages += messages_;
      --counts.open;
      state_.calls.erase(this);
      if (counts.open == 0) state_.ended.notify_all();
    }
    delete this;
  }

 private:
  State& state_;
  const std::shared_ptr<Flights> flights_;
  const uint64_t number_;
  grpc::ClientContext context_;
  v1::GenerateResponse in_;
  uint32_t messages_ = 0;
  uint32_t tokens_ = 0;
};

Load::Load(const std::string& address, int connections) : state_(std::make_unique<State>()) {
  for (int i = 0; i < connections; ++i)
    stubs_.push_back(v1::Inference::NewStub(MakeChannel(address, Credentials())));
  request_.mutable_prompt()->set_text(kPrompt);
  request_.mutable_sampling()->set_temperature(0);
  request_.mutable_stopping()->set_ignore_eos(true);
}

Load::~Load() {
  Cancel();
  Finish();
}

void Load::Begin(const std::shared_ptr<Flights>& flights, double per_second, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(per_second);
  request_.mutable_stopping()->set_max_tokens(flights->tokens());
  Clock::time_point next = Clock::now();
  for (size_t i = 0; i < flights->requests(); ++i) {
    next += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(gap(random)));
    std::this_thread::sleep_until(next);  // the pace of the load
    request_.mutable_sampling()->set_seed(i);
    auto* const call = new Call(*state_, flights, i);
    call->Start(*stubs_[i % stubs_.size()], request_);
  }
}

Load::Counts Load::Finish() {
  std::unique_lock lock(state_->mutex);
  state_->ended.wait(lock, [this] { return state_->counts.open == 0; });
  return std::exchange(state_->counts, {});
}

Load::Counts Load::counts() const {
  const std::lock_guard lock(state_->mutex);
  return state_->counts;
}

void Load::Cancel() {
  const std::lock_guard lock(state_->mutex);
  for (Call* const call : state_->calls) call->Cancel();
}

bool Load::Try() {
  Begin(std::make_shared<Flights>(1, 1), 1e6, 0);
  return Finish().served == 1;
}

}  // namespace conclave::services::bench
