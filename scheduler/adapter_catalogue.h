#pragma once
// Which adapters there are by name, and how one comes and goes while requests run. A pure state
// machine of the scheduler process beside PlacementChange; time and what is known are arguments,
// and what it decides counts once its caller has made Save() durable. Owned by one thread (or one
// lock).
//
//   add     CHECKING ──────────► PLACING ───────────────► DONE: the name is this version's
//             every worker has     all have adopted a
//             found the same       placement with it
//   remove  DRAINING ──────────► DONE: its memory is given back
//             nobody used it, and a placement without it is adopted
//
// Where memory does not suffice for all, AdapterRotation says which are placed; the others are on
// disk, and come back on demand. So is, whatever room there is, a version of which a worker lacks
// experts: it had to take them over and could not read them. What leaves memory takes no new
// requests, is not placed once those that run have ended, and stays what its name means.
//
// A version is a digest. Names may share one; its experts are placed once. What is placed and no
// name's version drains: it goes when every router follows a view that says so and holds no request
// of it, and every worker has said after that that it holds none either. A router that is silent
// for long does not block: its requests are at workers, which say so. What fails has changed
// nothing, what a crash interrupts goes on: which versions the placement has says how far it came.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scheduler/adapter_operation.h"
#include "scheduler/adapter_register.h"
#include "scheduler/adapter_rotation.h"
#include "scheduler/placement.h"
#include "scheduler/placement_change.h"
#include "scheduler/types.h"

namespace conclave::scheduler {

class AdapterCatalogue {
 public:
  struct Options {
    // For all workers to verify a directory, and for its version to be placed: each so long.
    Micros timeout = std::chrono::minutes(2);
    Micros again = std::chrono::seconds(1);  // after a plan that was taken back
    // A router that was silent for so long does not hold a version any more.
    Micros silent = std::chrono::seconds(30);
    // After the start, for routers to be heard, before a version may go.
    Micros listen = std::chrono::seconds(5);
    AdapterLimits limits;
    AdapterRotation::Options rotation;
  };

  using Stored = AdapterRegister;  // what survives a restart of the scheduler

  AdapterCatalogue(const Options& options, Stored stored, Micros now);

  // Begins an operation, or finds the one that was begun before: by its id, or by saying the same
  // of the same name. An empty id: one is chosen. Nothing has changed unless error is kNone.
  AdapterAnswer Add(const std::string& id, const std::string& name, const std::string& source);
  AdapterAnswer Remove(const std::string& id, const std::string& name);

  // What a worker or router last said.
  struct Report {
    Micros at{};                      // when it was heard
    uint64_t view = 0;                // version of the view that it follows
    std::vector<std::string> in_use;  // digests that requests hold there
    // Of a router, of these: those whose requests all wait until the version is in memory.
    std::vector<std::string> waiting;
    // Of a worker: versions, by digest, whose experts it lacks in what is committed, and why.
    std::map<std::string, std::string> lacks;
    // Of a worker: its verdict on a directory.
    uint64_t check = 0;  // 0: none
    FoundAdapter found;
  };
  struct Worker {
    std::string id;
    bool alive = true;
    bool leaving = false;            // is asked nothing more
    const Report* report = nullptr;  // of its present process; null: none yet
  };
  struct Router {
    std::string address;
    const Report* report = nullptr;
  };
  struct Known {
    uint64_t view = 0;  // version as of now; if Step returns true, the next one is higher
    std::span<const Worker> workers;  // all
    std::span<const Router> routers;  // all that may have requests
    const PlacementChange& placement;
  };
  // Draws what follows; true if what views tell, or what is saved, has changed.
  bool Step(const Known& known, Micros now);

  // What is to be proposed, to be asked after Step; nothing while there is nothing to do.
  struct Wish {
    std::optional<PlacedAdapter> add;  // ids and owners do not count
    std::string remove;                // else: a digest
  };
  std::optional<Wish> Next(const Known& known, Micros now) const;
  // What became of that wish.
  void Proposed(const Wish& wish, const PlacementChange::Proposal& proposal, Micros now);

  // As the register has them.
  std::vector<AdapterRow> Rows() const { return RowsOf(stored_); }
  // The operation whose directory is to be verified; null: none.
  const AdapterOperation* Checking() const;
  // Null: never begun, or forgotten.
  const AdapterOperation* Find(std::string_view operation) const {
    return FindOperation(stored_, operation);
  }
  const Stored& Save() const { return stored_; }
  // Why a version on disk could not come back when it was tried; empty: it was not.
  std::string WhyNot(const std::string& digest) const { return rotation_.WhyNot(digest); }
  // Whether it is placed and a worker lacks its experts: who asks for it is asked to wait.
  bool IsLacked(const std::string& digest) const { return lacked_.contains(digest); }

  struct Stats {
    uint64_t added = 0, replaced = 0, unchanged = 0, removed = 0, failed = 0;
    uint64_t bytes_freed = 0;
    uint64_t to_memory = 0, to_disk = 0;  // versions that came back, or had to leave for others
    uint64_t lacked = 0;                  // that had to because a worker lacked their experts
  };
  const Stats& stats() const { return stats_; }

 private:
  struct Leaving {
    bool to_disk = false;         // requests that wait may hold it
    uint64_t view = 0;            // from which on everybody has been told
    std::optional<Micros> quiet;  // since when no router holds it
  };
  AdapterAnswer Begin(AdapterOperation operation);
  const AdapterOperation* FirstIn(AdapterStage stage) const;
  AdapterOperation* Mutable(std::string_view operation);
  // By a name, or by an operation that has verified it.
  bool IsWanted(const std::string& digest) const;

  // Whether every worker serves by a placement that has the version, and no plan takes it away.
  static bool Serves(const PlacementChange& change, const std::string& digest);

  // In calling order; adapter_catalogue_memory.cc has those of memory.
  bool StepLacks(const Known& known);
  bool StepLost(const Known& known);
  bool StepPlan(const Known& known, Micros now);
  bool StepChecking(const Known& known, Micros now);
  bool StepPlacing(const Known& known, Micros now);
  bool StepComing(const Known& known);
  bool StepRotation(const Known& known, Micros now);
  bool MarkLacked(Micros now);
  bool StepLeaving(const Known& known, Micros now);
  bool StepGone(const Known& known);
  bool MayHold(const Router& router, const std::string& digest, const Leaving& leaving,
               Micros now) const;
  bool MayGo(const Leaving& leaving, const std::string& digest, const Known& known) const;
  bool TooLate(const AdapterOperation& operation, Micros now);
  bool IsHeard(const Router& router, Micros now) const;
  bool IsPlacing(const std::string& digest) const;
  // Whether an operation or a request brings it to memory.
  bool IsComing(const std::string& digest) const;
  bool IsOnDisk(const std::string& digest) const;
  // Whether no worker has what is not placed any more; true where there is room for any number.
  bool AllIsFreed() const;
  // Whether there is room for what the operation adds; true where that cannot be known yet.
  bool HasRoom(const AdapterOperation& operation, const PlacementChange& change) const;
  void Activate(AdapterOperation& operation, bool on_disk);
  void Free(const std::string& digest);
  void SettleDraining();
  void Fail(AdapterOperation& operation, AdapterError error, std::string message);
  void ForgetEnded();

  const Options options_;
  const Micros started_;
  Stored stored_;
  // The first operation of a stage, and since when it is that.
  struct Head {
    std::string id;
    Micros since{};
  };
  std::map<AdapterStage, Head> heads_;
  // The plan that is open: its number and the operation that it is for, empty of one that removes.
  std::optional<std::pair<uint64_t, std::string>> plan_;
  Micros not_before_{};  // the next plan
  std::string waits_;    // what the first operation waits for
  AdapterRotation rotation_;
  std::optional<std::string> coming_;          // the digest that is brought back
  std::map<std::string, std::string> lacked_;  // placed, and a worker lacks its experts; why
  std::map<std::string, Leaving> leaving_;     // wanted by nobody, or to go to disk; by digest
  struct Gone {
    uint64_t view = 0;  // since which it is not placed
    bool freed = false;
  };
  std::map<std::string, Gone> gone_;  // versions that are not placed
  Stats stats_;
};

}  // namespace conclave::scheduler
