#pragma once
// Who is alive, told by heartbeats and by silence; and the epoch of the placement they serve.
// Pure: time is an argument. Owned by one thread (or one lock) of the scheduler process.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

// What heartbeats alone say of a worker. A router also sees its own link to it and believes that
// more.
enum class WorkerState : uint8_t {
  kReady,
  kDraining,  // finishes what it has; silent or not, until it is dead
  kSuspect,   // silent: gets new sequences only where nobody else serves the model
  kDead,      // silent for long: likewise, and given up by every router whose link is silent too
};

class Membership {
 public:
  // Workers beat every 150 ms, on a thread that does nothing else. Three beats must be missed
  // before new sequences avoid a worker: one late beat is a busy machine, and avoiding a worker
  // costs little. Thirteen must be missed before it is given up, unless others that hold
  // connections to it saw them break: a process that ended is then known after two.
  struct Options {
    Micros suspect_after = std::chrono::milliseconds(500);
    Micros dead_after = std::chrono::seconds(2);           // > suspect_after
    Micros broken_after = std::chrono::milliseconds(300);  // if its peers lost it; <= dead_after
    Micros forget_after =
        std::chrono::minutes(10);  // > dead_after; its incarnation is then unknown
    int32_t max_workers = 1024;    // known ones, the dead included
  };

  struct Worker {
    std::string id;            // stable; independent of address and ordinal
    uint64_t incarnation = 0;  // of the process; grows with every start
    std::string address;
    WorkerState state = WorkerState::kReady;
    // Not kept in Stored:
    bool heard = false;   // by this scheduler; else known from Stored alone
    bool broken = false;  // its peers' connections to it, since it was last heard
  };

  // What survives a restart of the scheduler. Times do not: they are counted from the restart, so
  // that the workers have their full time to be heard, and the routers see no change.
  struct Stored {
    Epoch epoch = 0;
    uint64_t version = 0;
    std::vector<Worker> workers;  // by id
  };

  Membership(const Options& options, const Stored& stored, Micros now);

  struct Beat {
    std::string id;
    uint64_t incarnation = 0;
    std::string address;
    bool draining = false;
  };
  // kStale: a later incarnation of this worker was heard. kFull: max_workers are known. Neither has
  // any effect. A dead worker that is heard again with its own incarnation is ready again.
  enum class Heard : uint8_t { kAccepted, kStale, kFull };
  Heard Heartbeat(const Beat& beat, Micros now);

  // A peer's connection to this process of the worker broke. Its next beat unsays it.
  void ReportBroken(const std::string& id, uint64_t incarnation);

  // Nobody could be heard for so long up to `now`: this process was stopped, say. That is nobody's
  // silence.
  void Excuse(Micros deaf, Micros now);

  // Draws the consequences of silence up to `now`; true if the view changed.
  bool Tick(Micros now);
  // When a Tick would next change something if nobody were heard until then.
  std::optional<Micros> NextChange() const;

  // The view's other part, the placement, changed.
  void SetEpoch(Epoch epoch);

  Epoch epoch() const { return epoch_; }
  // Grows with every change of the view: a worker, its incarnation, address or state; the
  // placement.
  uint64_t version() const { return version_; }
  std::vector<Worker> Workers() const;  // by id
  Stored Save() const;

 private:
  struct Known {
    Worker worker;
    Micros heard{};
  };
  Micros DeadAfter(const Known& known) const;
  Micros ChangeDue(const Known& known) const;

  const Options options_;
  Epoch epoch_ = 0;
  uint64_t version_ = 0;
  std::map<std::string, Known> workers_;
};

}  // namespace conclave::scheduler
