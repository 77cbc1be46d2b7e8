#include "loadtest/load.h"

#include <grpcpp/grpcpp.h>
#include <time.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "conclave/v1/inference.grpc.pb.h"
#include "loadtest/arrivals.h"
#include "loadtest/open_calls.h"
#include "loadtest/recorder.h"
#include "loadtest/request.h"
#include "loadtest/stream.h"
#include "services/channel.h"

namespace conclave::loadtest {
namespace {

using Nanos = std::chrono::nanoseconds;
using namespace std::chrono_literals;

// That this process, all its threads together, has used.
Nanos CpuTime() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + Nanos(time.tv_nsec);
}

// The sending side. One thread.
class Sender {
 public:
  Sender(const Options& options, const Workload& workload, const std::atomic<bool>& stop)
      : options_(options), workload_(workload), stop_(stop), recorder_(options, workload) {
    for (uint32_t i = 0; i < options.channels; ++i) {
      channels_.push_back(MakeChannel());
      stubs_.push_back(v1::Inference::NewStub(channels_.back()));
    }
    for (uint32_t i = 0; i < options.slow_readers; ++i) {
      unread_.push_back(std::make_unique<UnreadStream>(MakeChannel(), MakeJobAt(i, {}).request));
    }
  }

  Results Run() {
    Connect();
    const Clock::time_point start = Clock::now();
    const Nanos cpu = CpuTime();
    recorder_.Begin(start);
    std::vector<std::jthread> actions = StartActions(start);
    const bool open = IsOpenLoop(options_, workload_);
    const Clock::time_point last = open ? SendOpen(start) : SendClosed(start);
    Drain();
    const Clock::time_point end = Clock::now();  // what actions take longer is without load
    actions.clear();
    Results results = recorder_.Take();
    results.slow_readers = unread_.size();
    results.sending = last - start;
    results.total = end - start;
    results.cpu = CpuTime() - cpu;
    unread_.clear();
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

  // Each action has a thread, which waits for its time and then for its end; none is joined before
  // that, nor later than a stop.
  std::vector<std::jthread> StartActions(Clock::time_point start) {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < options_.actions.size(); ++i) {
      threads.emplace_back([this, i, start] {
        const Action& action = options_.actions[i];
        const auto at = std::chrono::duration<double>(action.at);
        if (!WaitUntil(start + std::chrono::duration_cast<Clock::duration>(at))) return;
        recorder_.ActionBegan(i, Clock::now());
        const ActionEnd end = RunAction(action, [this] { return stop_.load(); });
        recorder_.ActionEnded(i, end, Clock::now());
      });
    }
    return threads;
  }

  std::unique_ptr<Arrivals> MakeArrivals() const {
    if (!workload_.options().trace.empty()) {
      return std::make_unique<TraceArrivals>(workload_.options().trace, options_.trace_speed);
    }
    std::vector<RateCurve::Piece> pieces;
    for (const Phase& phase : workload_.options().phases) {
      pieces.push_back({phase.seconds, phase.rate_from, phase.rate_to});
    }
    if (pieces.empty() && options_.rate_end) {
      pieces = {{options_.duration.count(), options_.rate, *options_.rate_end}};
    }
    return std::make_unique<RenewalArrivals>(
        pieces.empty() ? RateCurve::Constant(options_.rate) : RateCurve(pieces), options_.variation,
        options_.seed);
  }

  // How long arrivals may come; zero: until they end or are enough.
  Clock::duration Duration() const {
    std::chrono::duration<double> duration = options_.duration;
    for (const Phase& phase : workload_.options().phases) duration += phase.seconds * 1s;
    return std::chrono::duration_cast<Clock::duration>(duration);
  }

  // Both say when the last request was sent, or could not be.
  Clock::time_point SendOpen(Clock::time_point start) {
    const std::unique_ptr<Arrivals> arrivals = MakeArrivals();
    const Clock::duration duration = Duration();
    Clock::time_point last = start;
    std::optional<Nanos> at = arrivals->Next();
    uint64_t index = 0;
    for (; at && More(index, *at, duration) && WaitUntil(start + *at); ++index) {
      if (open_.size() < options_.in_flight_limit) {
        Send(index, start, start + *at);
      } else {
        recorder_.Unsent(workload_.At(index, *at), start + *at);
      }
      last = Clock::now();
      at = arrivals->Next();
    }
    // That no request is due in what is left of the time is part of the load, unless a trace ended.
    const bool trace_ended = !at && !workload_.options().trace.empty();
    if (!Enough(index) && !trace_ended) WaitUntil(start + duration);
    return last;
  }

  Clock::time_point SendClosed(Clock::time_point start) {
    const Clock::duration duration = Duration();
    const bool ends = duration.count() > 0;
    const Clock::time_point end = ends ? start + duration : Clock::time_point::max();
    open_.AddSlots(options_.concurrency, start);
    Clock::time_point last = start;
    for (uint64_t index = 0; !Enough(index); ++index) {
      const std::optional<Clock::time_point> due = WaitForSlot(end);
      if (!due || *due >= end) break;
      Send(index, start, *due);
      last = Clock::now();
    }
    return last;
  }

  bool Enough(uint64_t requests) const {
    return options_.requests > 0 && requests >= options_.requests;
  }

  bool More(uint64_t index, Nanos due, Clock::duration duration) const {
    if (Enough(index)) return false;
    return duration.count() <= 0 || due < duration;
  }

  // False if stopped before.
  bool WaitUntil(Clock::time_point due) {
    while (!stop_ && Clock::now() < due) {
      std::this_thread::sleep_until(std::min(due, Clock::now() + kStopCheck));
    }
    return !stop_;
  }

  // Since when the slot has been free; nothing if stopped, or at `end`, before one is.
  std::optional<Clock::time_point> WaitForSlot(Clock::time_point end) {
    while (!stop_) {
      const Clock::time_point now = Clock::now();
      const auto slot = open_.TakeSlot(std::min<Clock::time_point>(end, now + kStopCheck));
      if (slot || now >= end) return stop_ ? std::nullopt : slot;
    }
    return std::nullopt;
  }

  Job MakeJobAt(uint64_t index, Nanos at) const {
    return MakeJob(options_, index, workload_.At(index, at));
  }

  void Send(uint64_t index, Clock::time_point start, Clock::time_point due) {
    Job job = MakeJobAt(index, due - start);
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
  const Workload& workload_;
  const std::atomic<bool>& stop_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;  // one a channel
  std::vector<std::unique_ptr<UnreadStream>> unread_;
  Recorder recorder_;
  OpenCalls open_;
};

}  // namespace

bool IsOpenLoop(const Options& options, const Workload& workload) {
  return options.rate > 0 || options.rate_end || !workload.options().trace.empty() ||
         !workload.options().phases.empty();
}

Results RunLoad(const Options& options, const Workload& workload, const std::atomic<bool>& stop) {
  return Sender(options, workload, stop).Run();
}

}  // namespace conclave::loadtest
