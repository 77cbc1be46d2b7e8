#pragma once
// What one worker knows of placements: the one its home steps by, one that is prepared, and those
// whose frames it still serves. Make before break: a placement is prepared before it is committed,
// adopted between two steps, and an older one is served until it is released, so owners overlap.
// Pure; one lock or one thread of the worker. Idea: faults of a rescale checked as a model, "ack
// carries the plan id", "refusal is for safety".
//
// Judge refuses a frame of an epoch that was never prepared here, that is released, or that came
// from another plan of the same number, and one for an expert this worker does not own in it.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/placement.h"
#include "scheduler/types.h"

namespace conclave::scheduler {

class EpochKeeper {
 public:
  using Shared = std::shared_ptr<const Placement>;

  struct Options {
    // Placements held at once. Above it the oldest goes, though nobody has released it: its frames
    // are refused, which costs their homes a step, and no token.
    size_t max_held = 16;
  };

  EpochKeeper(const Options& options, std::string worker);

  // kReady: prepared, now or before: the plan may be acknowledged. kStale: a later plan was seen
  // here, or its epoch is not above the committed one; no effect. A later plan takes the place of
  // one that is prepared and not committed: the scheduler has dropped that one.
  enum class Prepared : uint8_t { kReady, kStale };
  Prepared Prepare(Shared placement);

  // kCommitted: now or before; the home adopts it at its next step. kUnknown: not prepared here, no
  // effect.
  enum class Committed : uint8_t { kCommitted, kUnknown };
  Committed Commit(uint64_t plan, Epoch epoch);

  // Drops what is prepared by this plan. One that is committed stays.
  void Abort(uint64_t plan);

  // Frames of epochs below are refused from now on. The placement the home steps by stays until it
  // adopts another.
  void Release(Epoch below);

  // Between two steps: takes the latest committed placement. Whether that is another one.
  bool AdoptAtStep();

  // The one the home steps by; null before the first.
  const Shared& adopted() const { return adopted_; }
  Epoch adopted_epoch() const { return adopted_ == nullptr ? 0 : adopted_->epoch; }
  // The one that the next step goes by; null before the first.
  const Shared& committed() const { return committed_; }
  // The plan that is prepared and neither committed nor aborted; 0: none.
  uint64_t prepared_plan() const { return prepared_ == nullptr ? 0 : prepared_->plan; }
  Epoch floor() const { return floor_; }

  enum class Verdict : uint8_t { kServe, kWrongEpoch, kNotOwned };
  Verdict Judge(Epoch epoch, uint64_t plan, ExpertId expert) const;
  // The placement of a frame's epoch if frames of it are served, for many experts at once; else
  // null.
  const Placement* Served(Epoch epoch, uint64_t plan) const;

  // Experts whose weights must be at hand: of all that is held. Ascending.
  std::vector<ExpertId> Needed() const;
  // Of those, the experts that only what is prepared needs.
  std::vector<ExpertId> Staged() const;
  size_t held() const { return held_.size(); }
  // All of them, by epoch.
  std::vector<Shared> All() const;

 private:
  std::vector<ExpertId> NeededBut(const Placement* without) const;
  void DropBelowFloor();

  const Options options_;
  const std::string worker_;
  std::map<Epoch, Shared> held_;  // prepared, committed, adopted and not yet released
  Shared prepared_;               // not committed; null: none
  Shared committed_;              // the latest, which AdoptAtStep takes; null: none
  Shared adopted_;
  Epoch floor_ = 0;
  uint64_t last_plan_ = 0;  // the latest that was prepared here
};

}  // namespace conclave::scheduler
