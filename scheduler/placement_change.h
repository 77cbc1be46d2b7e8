#pragma once
// How a cluster gets from one placement to the next without a step in between that lacks an expert.
// A pure state machine of the scheduler process; time and what is known of the workers are
// arguments, and what it decides counts once its caller has made Save() durable and not before.
// Owned by one thread (or one lock).
//
//             Propose                    every owner acknowledged this plan
//  STABLE(e) ─────────► PREPARED(p, e+1) ──────────────────────────────────► COMMITTED(e+1)
//      ▲                    │ refused, an owner lost, too late                   │ all have adopted
//      it ├────────────────────┘ back: nobody has used e+1                          │ forward only
//      └─────────────────────────────────────────────────────────────────────────┘ RELEASED: e is
//      over
//
// A worker that dies ends an open plan, and an emergency epoch gives what only it owned to those
// that are left: committed at once, as every worker refuses what it has not got ready yet, does not
// adopt what it cannot have of the base, and says what it lacks of adapters. One that comes back is
// fenced until it has adopted an epoch of after its death; then a plan of this machine's own
// restores what was wanted of it. Idea: two-phase commit with fencing by epoch, checked as a model
// (acks bound to the plan's id, rollback before the commit, forward after it).

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "scheduler/placement.h"
#include "scheduler/types.h"

namespace conclave::scheduler {

class PlacementChange {
 public:
  struct Options {
    Micros prepare_timeout = std::chrono::seconds(30);  // for a plan's owners to acknowledge it
    // For all to adopt what is committed. Who has not by then is refused its frames until it does.
    Micros adopt_timeout = std::chrono::seconds(30);
    // At the start, and after nobody was alive: before the first that are there get the experts of
    // all others. The shorter time where somebody is warm: the workers run, only their voices were
    // not heard. The longer one while all are being started.
    Micros regroup = std::chrono::seconds(1);
    Micros settle = std::chrono::seconds(10);
    // After the last epoch was released, adapters' apart, before what is wanted is restored; after
    // an owner could not prepare a plan.
    Micros restore = std::chrono::seconds(1);
    Micros restore_again = std::chrono::seconds(10);
    PlacementLimits limits;
  };

  // What a plan is for: what is wanted from now on; on the way back to that; another set of
  // versions of adapters, which leaves alone where base experts are wanted.
  enum class Purpose : uint8_t { kPlan, kRestore, kAdapters };

  // What survives a restart of the scheduler.
  struct Stored {
    uint64_t last_plan = 0;  // ids given out so far
    Epoch floor = 0;         // epochs below are released
    std::optional<Placement> current;
    std::optional<Placement> next;  // prepared: plan and epoch are its own, the epoch not committed
    // What an operator asked for last, with the versions of adapters that `current` has.
    std::optional<Placement> wanted;
    Purpose purpose = Purpose::kPlan;  // of next
    bool operator==(const Stored&) const = default;
  };

  // What the scheduler knows of a worker; of its present process.
  struct Member {
    std::string id;
    bool alive = true;
    bool leaving = false;  // no restoration gives it anything
    bool warm = false;     // had adopted a placement when this scheduler first heard its process
    uint64_t acknowledged = 0;  // the plan it has prepared
    uint64_t refused = 0;       // the plan it cannot prepare, and why
    int32_t code = 0;           // of that, as the worker has it
    std::string why;
    Epoch adopted = 0;  // 0: none yet
  };

  enum class Phase : uint8_t { kNone, kStable, kPrepared, kCommitted };

  PlacementChange(const Options& options, const Stored& stored, Micros now);

  // A plan for `target`, whose epoch and plan do not count. kPlan: with the versions of adapters
  // that `current` has; once committed it is what is wanted; it ends a restoration. kAdapters: with
  // the base's owners that `current` has. kBusy: one is open, or the last one is not adopted by
  // all. kLost: a worker that it names is not alive, at present. kInvalid: it is no placement;
  // `problem` says why.
  struct Proposal {
    enum class Verdict : uint8_t { kPrepared, kBusy, kLost, kInvalid };
    Verdict verdict = Verdict::kInvalid;
    uint64_t plan = 0;  // if prepared
    std::string problem;
  };
  Proposal Propose(Placement target, std::span<const Member> members, Micros now,
                   Purpose purpose = Purpose::kPlan);

  // Draws what follows from what is known of the workers, all that are members, by id; true if
  // anything changed. To be called whenever that changes, and now and then.
  bool Step(std::span<const Member> members, Micros now);

  Phase phase() const;
  const std::optional<Placement>& current() const { return stored_.current; }
  const std::optional<Placement>& next() const { return stored_.next; }
  Epoch epoch() const { return stored_.current ? stored_.current->epoch : 0; }
  Epoch floor() const { return stored_.floor; }
  const Stored& Save() const { return stored_; }

  // A worker that has died since it last adopted a placement: nothing it says counts.
  bool Fenced(const std::string& worker) const { return fences_.contains(worker); }
  // Whether the worker has a placement that others serve.
  bool Serves(const Member& member) const;

  // How the last plan of a purpose ended; nothing while it is open, or before the first.
  struct Outcome {
    uint64_t plan = 0;
    bool committed = false;
    Epoch epoch = 0;       // of the committed one
    std::string why;       // of the aborted one
    bool refused = false;  // by a worker that cannot
    int32_t code = 0;      // Member's
  };
  const std::optional<Outcome>& outcome(Purpose purpose = Purpose::kPlan) const {
    return outcomes_[static_cast<size_t>(purpose)];
  }

  struct Stats {
    uint64_t proposed = 0, committed = 0, aborted = 0;  // but restorations
    uint64_t emergencies = 0;
    uint64_t restored = 0;
    uint64_t released_late = 0;  // without somebody who did not adopt in time
  };
  const Stats& stats() const { return stats_; }

 private:
  bool UpdateFences(std::span<const Member> members);
  bool StepPrepared(std::span<const Member> members, Micros now);
  bool StepEmergency(std::span<const Member> members, Micros now);
  bool Gathered(std::span<const Member> members, Micros now);
  bool StepCommitted(std::span<const Member> members, Micros now);
  bool StepRestore(std::span<const Member> members, Micros now);
  void Prepare(Placement target, Purpose purpose, Micros now);
  void CommitNext(Micros now);
  void Abort(Outcome outcome);
  void Commit(Placement placement, Purpose purpose, Micros now);

  const Options options_;
  Stored stored_;
  Micros since_;  // of the phase
  // Since when it is quiet, but for adapters: those that come and go all the time keep nobody from
  // getting back what it had.
  Micros quiet_since_;
  Purpose last_ = Purpose::kPlan;  // that was committed
  struct Fence {
    Epoch epoch = 0;  // that the worker must adopt
    bool dead = true;
  };
  std::map<std::string, Fence> fences_;  // by worker
  bool bereaved_ = false;                // somebody died since the last commit
  std::set<std::string> died_;           // who
  bool first_ = true;                    // no Step yet
  // Nobody was alive, and nothing was committed since: some of those that are away may come back.
  bool gathering_ = true;
  std::optional<Micros> gathered_since_;  // somebody is alive
  Micros restore_after_{};                // not before
  // There was nothing to restore with this epoch and these workers.
  Epoch whole_epoch_ = 0;
  std::vector<std::string> whole_for_;
  std::array<std::optional<Outcome>, 3> outcomes_;  // [purpose]
  Stats stats_;
};

const char* NameOf(PlacementChange::Phase phase);

}  // namespace conclave::scheduler
