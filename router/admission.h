#pragma once
// The router's front door: how many requests and tokens it takes, who waits, who goes home next.
// Refuses at once, with a reason and an estimate of when to come back; never makes anybody wait to
// be refused. Strictly first come, first served: a request that does not fit anywhere yet holds up
// those behind it, so none starves; but one for which no worker has a credit holds up only those
// that need one too. Pure: no clock, threads or I/O; the owner brings both lock and time.

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "router/pick.h"
#include "router/worker_view.h"
#include "scheduler/types.h"

namespace conclave::router {

class Admission {
 public:
  using Micros = scheduler::Micros;

  struct Options {
    int32_t max_requests = 4096;  // all, those included whose client still reads what is done
    int64_t max_tokens = int64_t{1} << 22;  // prompt + max_tokens of all that wait or run
    int32_t max_waiting = 512;  // without a home: being tokenised, or no worker has room
    HomeLimits home;
    Micros pushback_min = std::chrono::milliseconds(100);
    Micros pushback_default = std::chrono::seconds(1);  // before any rate is known
    Micros pushback_max = std::chrono::seconds(10);
  };

  enum class Reason : uint8_t { kDuplicateId, kRequests, kWaiting, kTokens };

  struct Refusal {
    Reason reason = Reason::kRequests;
    int64_t limit = 0;   // the bound that was reached; 0 for kDuplicateId
    Micros pushback{0};  // after how long a retry may succeed; 0: never while that id lives
  };

  struct Start {
    uint64_t key = 0;
    uint64_t worker = 0;
  };

  explicit Admission(const Options& options);

  // Takes a place for a request whose tokens are not known yet, or refuses it without effect. The
  // key must be new. `from`: a request that hands over its id, if it has this one, and goes on
  // without.
  std::optional<Refusal> Reserve(uint64_t key, const std::string& id,
                                 std::optional<uint64_t> from = std::nullopt);

  // Its tokens (prompt + max_tokens) are known: it joins the end of the queue, or is refused and
  // keeps only its place. goes_on: as Demand's.
  std::optional<Refusal> Enqueue(uint64_t key, int64_t tokens, bool goes_on = false);

  // Who has this id.
  std::optional<uint64_t> KeyOf(const std::string& id) const;
  // The worker that has the request now.
  std::optional<uint64_t> HomeOf(uint64_t key) const;
  // It goes home to this worker if it can, whoever else is less loaded: much of it is computed
  // there.
  void Prefer(uint64_t key, uint64_t worker);

  // Who goes home now, in order; `workers` come without requests and tokens, which this class
  // counts.
  std::vector<Start> Dispatch(std::vector<WorkerView> workers, const std::string& model,
                              uint64_t seed);

  // Its home is done with it (ended, cancelled or lost). The request stays until Remove. No-op
  // without a home.
  void LeaveHome(uint64_t key, Micros now);
  // Its client does not read, or reads again. While paused it leaves its place to others, as far as
  // HomeLimits goes; when it reads again it has its place at once, even above the limits. No-op
  // without a home.
  void SetPaused(uint64_t key, bool paused);
  // Back to the head of the queue: its home refused or was lost before it said anything. The
  // request must have no home. goes_on: as Demand's.
  void Requeue(uint64_t key, bool goes_on = false);

  // Its client has been given its end: from now on another may have its id. The request stays until
  // Remove. Unknown keys are ignored.
  void ReleaseId(uint64_t key);

  // Forgets the request, wherever it is. Unknown keys are ignored.
  void Remove(uint64_t key, Micros now);

  // Everyone who waits, in order: to be told that there is no worker, or that the drain's time is
  // over.
  std::vector<uint64_t> Waiting() const;

  // When a place in the queue may be free: what the recent departures suggest, within the bounds of
  // Options.
  Micros Pushback() const;

  struct Stats {
    int32_t requests = 0;
    int32_t preparing = 0;  // reserved, not yet queued
    int32_t waiting = 0;
    int32_t waiting_for_credit = 0;  // of them, as of the last Dispatch
    int32_t running = 0;             // with a home
    int64_t tokens = 0;
  };
  Stats stats() const;

  // Walks all state and aborts on a broken promise. For tests.
  void CheckInvariants() const;

 private:
  enum class State : uint8_t { kPreparing, kWaiting, kHome, kFinished };
  struct Entry {
    std::optional<std::string> id;  // until it is released or handed over
    State state = State::kPreparing;
    int64_t tokens = 0;
    uint64_t worker = 0;
    std::optional<uint64_t> preferred;  // worker
    bool paused = false;                // counted in Home::paused alone
    bool goes_on = false;
  };
  struct Home {
    int32_t requests = 0;  // without those paused, as tokens
    int64_t tokens = 0;
    int32_t paused = 0;
  };

  void SendHome(uint64_t key, WorkerView& worker);
  void Departed(Micros now);

  const Options options_;
  std::unordered_map<uint64_t, Entry> entries_;
  std::unordered_map<std::string, uint64_t> ids_;  // to keys
  std::deque<uint64_t> queue_;                     // kWaiting, oldest first
  int32_t going_on_ = 0;                           // of queue_
  bool lacks_credit_ = false;                      // those of queue_, after the last Dispatch
  std::unordered_map<uint64_t, Home> homes_;
  int32_t preparing_ = 0;
  int32_t running_ = 0;
  int64_t tokens_ = 0;

  // Mean time between departures while somebody waited, exponentially weighted.
  std::optional<Micros> last_departure_;
  std::optional<double> departure_us_;
};

}  // namespace conclave::router
