#include "loadtest/load.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "loadtest/arrivals.h"
#include "loadtest/expectation.h"
#include "services/channel.h"

namespace conclave::loadtest {
namespace {

using Clock = std::chrono::steady_clock;
using Nanos = std::chrono::nanoseconds;

// How soon a stop is noticed.
constexpr std::chrono::milliseconds kStopCheck(100);

// One request as it is sent.
struct Job {
  const Prompt* prompt = nullptr;
  v1::GenerateRequest request;
  Clock::time_point due;
  std::optional<uint32_t> cancel_at;  // after this many tokens
};

// Makes the n-th request from n and the seed.
class Jobs {
 public:
  Jobs(const Options& options, std::span<const Prompt> prompts)
      : options_(options), prompts_(prompts) {}

  Job Make(uint64_t index) const {
    const Prompt& prompt = prompts_[index % prompts_.size()];
    std::seed_seq seeds{options_.seed, options_.seed >> 32, index, index >> 32};
    std::mt19937_64 random(seeds);
    Job job{
        .prompt = &prompt, .request = MakeRequest(prompt, random()), .due = {}, .cancel_at = {}};
    if (Uniform(random) < options_.cancel_fraction) {
      const double tokens = job.request.stopping().max_tokens();
      job.cancel_at = static_cast<uint32_t>(Uniform(random) * tokens);
    }
    return job;
  }

 private:
  v1::GenerateRequest MakeRequest(const Prompt& prompt, uint64_t seed) const {
    v1::GenerateRequest request;
    request.set_adapter(prompt.adapter);
    if (prompt.token_ids.empty()) {
      request.mutable_prompt()->set_text(prompt.text);
    } else {
      auto* const ids = request.mutable_prompt()->mutable_tokens()->mutable_ids();
      ids->Add(prompt.token_ids.begin(), prompt.token_ids.end());
    }
    v1::Sampling& sampling = *request.mutable_sampling();
    sampling.set_temperature(prompt.temperature.value_or(options_.temperature));
    if (prompt.top_p) sampling.set_top_p(*prompt.top_p);
    if (prompt.top_k) sampling.set_top_k(*prompt.top_k);
    sampling.set_seed(prompt.seed.value_or(seed));
    v1::Stopping& stopping = *request.mutable_stopping();
    stopping.set_max_tokens(prompt.max_tokens.value_or(options_.max_tokens));
    stopping.mutable_stop()->Add(prompt.stop.begin(), prompt.stop.end());
    stopping.set_ignore_eos(prompt.ignore_eos.value_or(options_.ignore_eos));
    return request;
  }

  const Options& options_;
  const std::span<const Prompt> prompts_;
};

// Where streams report to. Any thread.
class Recorder {
 public:
  template <typename Change>
  void With(Change change) {
    const std::lock_guard lock(mutex_);
    change(results_);
  }
  Results Take() {
    const std::lock_guard lock(mutex_);
    return std::move(results_);
  }

 private:
  std::mutex mutex_;
  Results results_;
};

// What is needed to cancel a stream that may be ending at the same time.
struct Call {
  grpc::ClientContext context;
  std::atomic<bool> cancelled{false};  // by us

  void Cancel() {
    cancelled = true;
    context.TryCancel();
  }
};

// The calls that are open, to be counted, waited for and cancelled. Any thread.
class OpenCalls {
 public:
  void Add(const std::shared_ptr<Call>& call) {
    const std::lock_guard lock(mutex_);
    open_.insert(call);
  }
  // A context holds its channel, and the last channel of a process must not go on one of gRPC's own
  // threads, for it waits for them. So the context goes here, before a waiter may let go of the
  // channel; and the waiter may destroy this as soon as the lock is free.
  void Remove(std::shared_ptr<Call> call) {
    const std::lock_guard lock(mutex_);
    open_.erase(call);
    call.reset();
    changed_.notify_all();
  }
  size_t size() {
    const std::lock_guard lock(mutex_);
    return open_.size();
  }
  // True once fewer than `count` are open; false at `until`.
  bool WaitForFewerThan(size_t count, Clock::time_point until) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, until, [&] { return open_.size() < count; });
  }
  // Cancels without the lock, for gRPC may run a call's last reaction on this very thread.
  void CancelAll() {
    std::unique_lock lock(mutex_);
    const std::vector<std::shared_ptr<Call>> calls(open_.begin(), open_.end());
    lock.unlock();
    for (const std::shared_ptr<Call>& call : calls) call->Cancel();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_set<std::shared_ptr<Call>> open_;
};

// One generation from its start to its end, which deletes it. Reactions come one at a time.
class Stream : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Stream(Job job, std::chrono::duration<double> timeout, Recorder& recorder, OpenCalls& open)
      : job_(std::move(job)), expectation_(*job_.prompt), recorder_(recorder), open_(open) {
    const auto limit = std::chrono::duration_cast<std::chrono::microseconds>(timeout);
    call_->context.set_deadline(std::chrono::system_clock::now() + limit);
  }

  void Start(v1::Inference::Stub& stub) {
    open_.Add(call_);
    const Nanos late = Clock::now() - job_.due;
    recorder_.With([&](Results& results) {
      ++results.sent;
      results.lag.Record(late);
    });
    stub.async()->Generate(&call_->context, &job_.request, this);
    AddHold();  // keeps this alive until it is cancelled below
    StartRead(&response_);
    StartCall();
    if (job_.cancel_at == 0) call_->Cancel();
    RemoveHold();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    TakeResponse();
    if (job_.cancel_at && tokens_ >= *job_.cancel_at && !call_->cancelled) call_->Cancel();
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    const Clock::time_point now = Clock::now();
    recorder_.With([&](Results& results) { Finish(status, now, results); });
    OpenCalls& open = open_;
    std::shared_ptr<Call> call = call_;
    delete this;
    open.Remove(std::move(call));
  }

 private:
  void TakeResponse() {
    const Clock::time_point now = Clock::now();
    const auto count = static_cast<uint64_t>(response_.token_ids_size());
    complete_ = complete_ || response_.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
    if (response_.has_usage()) prompt_tokens_ = response_.usage().prompt_tokens();
    if (expectation_.any()) {
      expectation_.Take(response_.text(), {response_.token_ids().data(), count});
    }
    if (count == 0) return;
    recorder_.With([&](Results& results) {
      results.output_tokens += count;
      if (tokens_ == 0) {
        results.ttft.Record(now - job_.due);
      } else {
        results.itl.Record(now - last_token_);
      }
    });
    if (tokens_ == 0) first_token_ = now;
    last_token_ = now;
    tokens_ += count;
  }

  void Finish(const grpc::Status& status, Clock::time_point now, Results& results) {
    const bool whole = status.ok() && complete_;
    if (whole) {
      FinishWhole(now, results);
    } else if (call_->cancelled && status.error_code() == grpc::StatusCode::CANCELLED) {
      ++results.cancelled;
    } else {
      FinishBroken(status, now, results);
    }
    Check(whole, results);
  }

  void FinishWhole(Clock::time_point now, Results& results) {
    ++results.completed;
    ++results.by_code["OK"];
    results.input_tokens += prompt_tokens_;
    results.e2e.Record(now - job_.due);
    if (tokens_ > 1) {
      results.tpot.Record((last_token_ - first_token_) / static_cast<int64_t>(tokens_ - 1));
    }
  }

  void FinishBroken(const grpc::Status& status, Clock::time_point now, Results& results) {
    if (status.ok()) ++results.incomplete;
    const std::string code =
        absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
    ++results.by_code[code];
    if (!status.ok()) {
      results.first_message.emplace(code, absl::Utf8SafeCHexEscape(status.error_message()));
    }
    const bool refused = status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ||
                         status.error_code() == grpc::StatusCode::UNAVAILABLE;
    if (refused && tokens_ == 0) results.refusal.Record(now - job_.due);
  }

  void Check(bool whole, Results& results) {
    if (!expectation_.any() || (tokens_ == 0 && !whole)) return;
    ++results.checked;
    const std::optional<std::string> difference = expectation_.Difference(whole);
    if (!difference) return;
    ++results.mismatched;
    if (results.mismatches.size() < Results::kMismatchesKept) {
      results.mismatches.push_back({job_.prompt->line, *difference});
    }
  }

  Job job_;
  Expectation expectation_;
  Recorder& recorder_;
  OpenCalls& open_;
  std::shared_ptr<Call> call_ = std::make_shared<Call>();
  v1::GenerateResponse response_;
  bool complete_ = false;
  uint32_t prompt_tokens_ = 0;
  uint64_t tokens_ = 0;
  Clock::time_point first_token_;
  Clock::time_point last_token_;
};

// A stream that never reads. It has a connection of its own, so that what it leaves unread can hold
// up nobody on this side.
class SlowReader : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  SlowReader(const std::shared_ptr<grpc::Channel>& channel, v1::GenerateRequest request)
      : stub_(v1::Inference::NewStub(channel)), request_(std::move(request)) {
    stub_->async()->Generate(&context_, &request_, this);
    AddHold();
    StartCall();
  }
  ~SlowReader() override {
    context_.TryCancel();
    RemoveHold();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
  }
  SlowReader(const SlowReader&) = delete;
  SlowReader& operator=(const SlowReader&) = delete;

  void OnDone(const grpc::Status&) override {
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }

 private:
  std::unique_ptr<v1::Inference::Stub> stub_;
  v1::GenerateRequest request_;
  grpc::ClientContext context_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

// The sending side. One thread.
class Sender {
 public:
  Sender(const Options& options, std::span<const Prompt> prompts, const std::atomic<bool>& stop)
      : options_(options), jobs_(options, prompts), stop_(stop) {
    for (uint32_t i = 0; i < options.channels; ++i) {
      channels_.push_back(MakeChannel());
      stubs_.push_back(v1::Inference::NewStub(channels_.back()));
    }
    for (uint32_t i = 0; i < options.slow_readers; ++i) {
      slow_.push_back(std::make_unique<SlowReader>(MakeChannel(), jobs_.Make(i).request));
    }
  }

  Results Run() {
    Connect();
    const Clock::time_point start = Clock::now();
    const Clock::time_point last = options_.rate > 0 ? SendOpen(start) : SendClosed(start);
    Drain();
    const Clock::time_point end = Clock::now();
    Results results = recorder_.Take();
    results.slow_readers = slow_.size();
    results.sending = last - start;
    results.total = end - start;
    slow_.clear();
    return results;
  }

 private:
  std::shared_ptr<grpc::Channel> MakeChannel() const {
    return services::MakeChannel(options_.server, options_.credentials);
  }

  // Until every connection is made, or was refused once: making them is no part of the load.
  void Connect() {
    for (const std::shared_ptr<grpc::Channel>& channel : channels_) channel->GetState(true);
    for (const std::shared_ptr<grpc::Channel>& channel : channels_) {
      for (auto state = channel->GetState(true);
           !stop_ && (state == GRPC_CHANNEL_IDLE || state == GRPC_CHANNEL_CONNECTING);
           state = channel->GetState(true)) {
        channel->WaitForStateChange(state, std::chrono::system_clock::now() + kStopCheck);
      }
    }
  }

  // Both say when the last request was sent.
  Clock::time_point SendOpen(Clock::time_point start) {
    PoissonArrivals arrivals(options_.rate, options_.seed);
    Clock::time_point last = start;
    Clock::time_point due = start + arrivals.Next();
    uint64_t index = 0;
    for (; More(index, due - start) && WaitUntil(due); ++index) {
      if (open_.size() < options_.in_flight_limit) {
        Send(index, due);
        last = Clock::now();
      } else {
        recorder_.With([](Results& results) { ++results.unsent; });
      }
      due = start + arrivals.Next();
    }
    // That no request is due in what is left of the time is part of the load.
    if (!Enough(index)) {
      WaitUntil(start + std::chrono::duration_cast<Clock::duration>(options_.duration));
    }
    return last;
  }

  Clock::time_point SendClosed(Clock::time_point start) {
    Clock::time_point last = start;
    for (uint64_t index = 0; More(index, Clock::now() - start) && WaitForTurn(); ++index) {
      last = Clock::now();
      Send(index, last);
    }
    return last;
  }

  bool Enough(uint64_t requests) const {
    return options_.requests > 0 && requests >= options_.requests;
  }

  bool More(uint64_t index, Clock::duration since_start) const {
    if (Enough(index)) return false;
    return options_.duration.count() <= 0 || since_start < options_.duration;
  }

  // False if stopped before, like the next.
  bool WaitUntil(Clock::time_point due) {
    while (!stop_ && Clock::now() < due) {
      std::this_thread::sleep_until(std::min(due, Clock::now() + kStopCheck));
    }
    return !stop_;
  }

  bool WaitForTurn() {
    while (!stop_ && !open_.WaitForFewerThan(options_.concurrency, Clock::now() + kStopCheck)) {
    }
    return !stop_;
  }

  void Send(uint64_t index, Clock::time_point due) {
    Job job = jobs_.Make(index);
    job.due = due;
    auto* const stream = new Stream(std::move(job), options_.timeout, recorder_, open_);
    stream->Start(*stubs_[index % stubs_.size()]);
  }

  // Every stream has a deadline, so this ends.
  void Drain() {
    while (!open_.WaitForFewerThan(1, Clock::now() + kStopCheck)) {
      if (stop_) open_.CancelAll();
    }
  }

  const Options& options_;
  const Jobs jobs_;
  const std::atomic<bool>& stop_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;  // one a channel
  std::vector<std::unique_ptr<SlowReader>> slow_;
  Recorder recorder_;
  OpenCalls open_;
};

}  // namespace

Results RunLoad(const Options& options, std::span<const Prompt> prompts,
                const std::atomic<bool>& stop) {
  return Sender(options, prompts, stop).Run();
}

}  // namespace conclave::loadtest
