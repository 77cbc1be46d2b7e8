#pragma once
// The router's front door: how many requests and tokens it takes, who waits, who goes home next.
// Refuses at once, with a reason and an estimate of when to come back; never makes anybody wait to
// be refused. Pure: no clock, threads or I/O; the owner brings both lock and time.
//
// First come, first served within an adapter, and fair between adapters, the base model being one
// of them: a flood on one delays itself.
//   * Whose turn it is says FairQueue, by the tokens each is served: what a request is charged when
//     it goes home is a guess (its prompt, and of max_tokens what its adapter's requests used to
//     have), put right by what it was served when it leaves. An idle server gives all it has to
//     whoever asks.
//   * A request too large for the room there is holds up those behind it in its adapter. Smaller
//     ones of others go past it, with no more tokens together than it has itself; then nobody does
//     until it fits. So it does not starve, and holds up nobody for long. One for which no worker
//     has a credit holds up only those that need one too.
//   * What runs is not interrupted. But while there are several adapters, one that has more than
//     its share of what runs leaves `kept_percent` of each worker's places and tokens to those that
//     have no more than theirs: as long as these last, nobody waits for the end of its long
//     requests. When they are gone, who is due waits for the next end on any worker, whosever.
//   * Where adapters share (ShareOut), an adapter has at most half of what the others leave of each
//     limit: a flood is refused while others still find a place. Idea: Choudhury and Hahne,
//     "Dynamic queue length thresholds for shared-memory packet switches" (1998).
//   * A request whose home is lost goes before all: it has been charged, and has waited.
//   * One whose adapter's version is not in memory (SetAway) waits for that, with those behind it
//     in its adapter, of a newer version too; to others it is as if it were not there.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "router/departures.h"
#include "router/fair_queue.h"
#include "router/output_estimate.h"
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
    int32_t max_waiting = 512;           // without a home: being tokenised, or no worker has room
    int32_t max_waiting_each = 1 << 20;  // of those, of one adapter
    int32_t kept_percent = 10;           // of a worker's places, and of its tokens
    int32_t known_adapters = 1024;       // of which is remembered how they were, at most
    FairQueue::Options fair;
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
    std::optional<std::string> adapter = std::nullopt;  // whose bound it is, if not that of all
  };

  struct Start {
    uint64_t key = 0;
    uint64_t worker = 0;
  };

  // In tokens. What a request may have needs room; what it is charged is less if it ends sooner.
  struct Need {
    int64_t prompt = 0;
    int64_t output = 0;  // at most
    int64_t all() const { return prompt + output; }
  };

  explicit Admission(const Options& options);

  // Whether there are others than the base model; at first there are not.
  void ShareOut(bool shared) { shared_ = shared; }

  // Takes a place for a request whose tokens are not known yet, or refuses it without effect. The
  // key must be new. `from`: a request that hands over its id, if it has this one, and goes on
  // without. adapter: its name; empty: the base model.
  std::optional<Refusal> Reserve(uint64_t key, const std::string& id,
                                 std::optional<uint64_t> from = std::nullopt,
                                 const std::string& adapter = "");

  // It is of another adapter than it was reserved for; before Enqueue. Or there is no place in that
  // one, and it stays where it was.
  std::optional<Refusal> MoveTo(uint64_t key, const std::string& adapter);

  // Its tokens are known: it joins the end of its adapter's queue, or is refused and keeps only its
  // place. goes_on: as Demand's. version: digest of what it needs; empty: the base model.
  std::optional<Refusal> Enqueue(uint64_t key, const Need& need, bool goes_on = false,
                                 const std::string& version = "");

  // Versions, by digest, with which no request begins, from now on; and whether workers have it
  // still, for those that a worker had.
  void SetAway(std::map<std::string, bool> away) { away_ = std::move(away); }
  bool WaitsForMemory(uint64_t key) const;
  // Digests of versions of which all requests wait so. A request between two homes does not.
  std::set<std::string> versions_waited_for() const;
  int32_t waiting_for_memory() const;

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

  // Its home is done with it (ended, cancelled or lost), after so many tokens of prompt and output
  // in all; nothing: as many as were guessed. The request stays until Remove. No-op without a home.
  void LeaveHome(uint64_t key, Micros now, std::optional<int64_t> served = std::nullopt);
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

  // Everyone who waits, by arrival behind those that were requeued: to be told that there is no
  // worker, or that the drain's time is over.
  std::vector<uint64_t> Waiting() const { return queue_.Waiting(); }

  // When a place in the queue may be free: what the recent departures suggest, within the bounds of
  // Options.
  Micros Pushback() const { return Pushback(departures_, queue_.size()); }

  struct Stats {
    int32_t requests = 0;
    int32_t preparing = 0;  // reserved, not yet queued
    int32_t waiting = 0;
    int32_t waiting_for_credit = 0;  // of them, as of the last Dispatch
    int32_t running = 0;             // with a home
    int64_t tokens = 0;
  };
  Stats stats() const;
  // Of each adapter that has requests, without what it waits for; empty: the base model.
  std::unordered_map<std::string, Stats> adapters() const;

  // Walks all state and aborts on a broken promise. For tests.
  void CheckInvariants() const;

 private:
  enum class State : uint8_t { kPreparing, kWaiting, kHome, kFinished };
  // What an adapter has, and how its requests were.
  struct Account {
    std::string adapter;
    Stats has;
    OutputEstimate estimate;
    Departures departures;
  };
  struct Entry {
    std::optional<std::string> id;  // until it is released or handed over
    Account* account = nullptr;
    State state = State::kPreparing;
    Need need;
    int64_t charged = 0;
    bool served = false;  // that is what it was served
    uint64_t worker = 0;
    std::optional<uint64_t> preferred;  // worker
    bool paused = false;                // counted in Home::paused alone
    bool goes_on = false;
    bool requeued = false;  // it has had its turn
    std::string version;    // digest
  };
  struct Home {
    int32_t requests = 0;  // without those paused, as tokens
    int64_t tokens = 0;
    int32_t paused = 0;
  };
  struct Round;  // of Dispatch

  // Of a limit of which `all` are taken, and `own` of them by one adapter: what that one may have.
  int64_t ShareOf(int64_t limit, int64_t all, int64_t own) const;
  std::optional<Refusal> RefusePlace(const Account& account) const;
  Refusal Refused(Reason reason, int64_t limit, const Account& account) const;
  Micros Pushback(const Departures& departures, size_t waiting) const;
  Account& AccountOf(const std::string& adapter);  // made, if it is new
  void ForgetIfIdle(Account& account);
  // One request more, or less, is being prepared.
  void CountPreparing(Account& account, int32_t change);
  bool IsAway(const Entry& entry) const;
  void Count(Account& account, State state, int32_t change);
  void CountTokens(Account& account, int64_t change);

  FairQueue::Answer Offer(uint64_t key, Round& round);
  bool LeavesSomeToOthers(uint64_t key) const;
  void HoldUp(uint64_t key);
  bool MustWait(uint64_t key) const;
  void SendHome(uint64_t key, WorkerView& worker);

  const Options options_;
  bool shared_ = false;
  std::unordered_map<std::string, Account> accounts_;  // by adapter
  std::unordered_map<uint64_t, Entry> entries_;
  std::unordered_map<std::string, uint64_t> ids_;  // to keys
  FairQueue queue_;                                // kWaiting
  int64_t passed_ = 0;                             // tokens that went past who is held up in queue_
  bool lacks_credit_ = false;                      // those of queue_, after the last Dispatch
  std::unordered_map<uint64_t, Home> homes_;
  std::map<std::string, bool> away_;
  Stats has_;
  Departures departures_;
};

}  // namespace conclave::router
