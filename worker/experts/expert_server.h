#pragma once
// The owner's side of the exchange: computes rows with the experts that are here, for everybody,
// this worker's own home included. What has arrived and is due (scheduler/gather_rule.h) is served
// together, each expert's weights read once for all its rows, whoever sent them. Where sums are
// returned, peers get those of their rows (partial_sum.h); its home makes its own. It waits for no
// peer, so no two workers can wait for each other.
//
// Whoever has time serves: a thread of its own, or the engine thread while it waits for answers.
// One at a time; Serve says at once if somebody else does. Threads: every method from any thread.

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "scheduler/gather_rule.h"
#include "worker/device/device.h"
#include "worker/experts/transport.h"

namespace conclave::worker {

class ExpertServer {
 public:
  struct Options {
    // Rows of peers and of the own home in one pass, and their routes: what does not fit waits for
    // the next one.
    int32_t max_rows = 1024;
    int32_t max_routes = 8192;
    int32_t max_waiting = 256;  // frames; more are refused as busy
    scheduler::GatherRule::Options gather;
    bool start_thread = true;
    // Before an expert is computed with the first time; empty: nothing.
    std::function<void(const FfnWeights&)> bring;
  };

  // Rows of this worker's own home: routes [n] into rows of x, result i to row outputs[i] of out.
  struct LocalJob {
    int32_t layer = 0;
    ConstRows x;
    std::span<const FrameRoute> routes;
    std::span<const int32_t> outputs;
    Rows out;
    std::atomic<bool> done{true};
    bool urgent = false;  // waits for no other home; the server's
  };

  // What a peer asks; its rows and routes are checked, its experts are not yet judged.
  struct RemoteJob {
    PeerIndex from = -1;
    FrameHeader header;
    FrameBody body;
  };

  // Whether a peer's frame may be served: kNone, or why not. Where it may and weights are missing,
  // they could not be had: kLacking.
  using Judge =
      std::function<Refusal(PeerIndex from, const FrameHeader&, std::span<const FrameRoute>)>;

  // experts: weights of the base's, by id. Everything outlives the server.
  ExpertServer(const Options& options, const FrameLimits& limits,
               std::vector<const FfnWeights*> experts, Device& device, Transport* transport,
               Judge judge);
  ~ExpertServer();

  // The job, what it points to, and x, stay as they are until it is done or withdrawn.
  void Submit(LocalJob* job);
  // Takes back a job that was not begun, or waits until it is done.
  void Withdraw(LocalJob* job);
  void Submit(RemoteJob job);

  // One pass over what waits and is due; false if nothing is, or another thread is serving.
  bool Serve();
  using Clock = std::chrono::steady_clock;
  // When the first of what waits is due; nothing: nothing waits.
  std::optional<Clock::time_point> NextDue() const;
  // Whether the job waits for other homes.
  bool Waits(const LocalJob& job) const;

  // Calls it between two passes.
  void Quiet(const std::function<void()>& call);
  // Within Quiet alone: the weights of an adapter's expert, or null: it is here no more.
  void SetWeights(scheduler::ExpertId expert, const FfnWeights* weights);

  // Serves until this job is done.
  void Finish(LocalJob* job);

  // Somebody who serves while it waits for something else. While there is one, work of peers is
  // told to it instead of waking the server's own thread; it must not block. Null: nobody.
  class Watcher {
   public:
    virtual ~Watcher() = default;
    virtual void OnWork() = 0;
  };
  void SetWatcher(Watcher* watcher);

  struct Stats {
    uint64_t passes = 0;
    uint64_t rows = 0;                          // of peers
    uint64_t own_rows = 0;                      // routes of the own home
    uint64_t routes = 0;                        // computed for peers
    uint64_t weights_read = 0;                  // (expert, pass) pairs
    std::array<uint64_t, kRefusals> refused{};  // by Refusal
    uint64_t replies_lost = 0;                  // the peer was gone, or had no room
  };
  Stats stats() const;

 private:
  // Results held before they go where they are wanted.
  static constexpr size_t kResultRows = 512;
  // Where a result is wanted: a row of the own home's, a part of a reply, or, if the asker is gone,
  // nowhere.
  struct Place {
    float* row = nullptr;
    std::byte* packed = nullptr;  // where sums are returned: of the sum it is a term of
    float weight = 1.0f;          // in that sum
  };

  void Run();
  bool Pass();  // serving_ held
  void Take();
  void TakeDue();
  // mutex_ held in these three.
  bool Waiting() const { return !local_.empty() || !remote_.empty(); }
  bool Due(const LocalJob* job, scheduler::Micros now) const;
  bool Due(const RemoteJob& job, scheduler::Micros now) const;
  Refusal CopyRoutes(const RemoteJob& job, scheduler::ExpertId* lacking);
  void Compute();
  void Load(const RemoteJob& job, size_t first_route);
  void Load(const LocalJob& job);
  void SortByExpert();
  void BringTouched();
  void MakeWork(size_t first, size_t end, const std::vector<int32_t>& outputs);
  void ComputeInPlace(const LocalJob& job);
  void ComputeRows(ConstRows rows);
  void ComputeSums(ConstRows rows);
  void Put(const float* result, const Place& place) const;
  void Answer();
  void Refuse(const RemoteJob& job, Refusal why, scheduler::ExpertId lacking = 0);

  const Options options_;
  const FrameLimits limits_;
  Device& device_;
  Transport* const transport_;
  const Judge judge_;

  // Whoever serves.
  std::mutex serving_;
  std::vector<const FfnWeights*> experts_;  // by id; null: not here
  std::vector<bool> brought_;               // [experts] as options_.bring says
  std::vector<LocalJob*> local_now_;
  std::vector<RemoteJob> remote_now_;
  std::vector<FrameRoute> copied_;  // routes of remote_now_, one job's after the other's; checked
  std::vector<FrameTerm> terms_;    // likewise, where sums are returned
  std::unique_ptr<float[]> rows_;   // [max_rows, dim]; touched only as used
  // [some rows, dim]; where sums are returned [routes, dim], touched only as used: the terms of a
  // sum are of several experts.
  std::unique_ptr<float[]> results_;
  std::vector<FrameRoute> routes_;  // of this pass, rows counted over rows_
  std::vector<int32_t> count_;      // [experts] zero between passes
  std::vector<scheduler::ExpertId> touched_;
  std::vector<Place> places_;                      // [routes]
  std::vector<std::optional<FrameBody>> replies_;  // of remote_now_; none: the asker is gone
  std::vector<int32_t> runs_;  // where each touched expert's routes begin, sorted
  std::vector<int32_t> inputs_, order_, outputs_;  // [routes] sorted: row, route, row of the result
  std::vector<int32_t> every_row_;                 // 0, 1, ..
  std::vector<const float*> summed_;               // terms of one sum,
  std::vector<float> weights_;                     // theirs,
  std::vector<float> sum_;                         // [dim] and what they make
  std::vector<ExpertWork> work_;
  std::vector<uint8_t> due_;  // [what waits]
  int64_t taken_rows_ = 0;
  int32_t loaded_rows_ = 0;
  bool own_alone_ = false;  // this pass is one local job: it is computed where it lies

  mutable std::mutex mutex_;  // guards what follows; taken after serving_
  std::vector<LocalJob*> local_;
  std::vector<RemoteJob> remote_;
  Watcher* watcher_ = nullptr;
  scheduler::GatherRule gather_;
  Stats stats_;
  bool stopping_ = false;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::thread thread_;
};

}  // namespace conclave::worker
