#pragma once
// Which workers own which expert: plain data with a number, the epoch, and the pure functions that
// make one, judge one and compare two. Immutable once made; any thread.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

struct Placement {
  Epoch epoch = 0;                   // 0: not committed to one yet
  uint64_t plan = 0;                 // that brought it; never used twice
  std::vector<std::string> workers;  // ids, ascending; one may own nothing
  std::vector<std::vector<int32_t>>
      owners;  // [experts] ascending indexes into workers, one or more

  bool operator==(const Placement&) const = default;
};

struct PlacementLimits {
  size_t workers = 1024;
  size_t experts = 1 << 17;
  size_t copies = 1 << 19;  // of all experts together
};

// Why `placement` is none, naming worker or expert; empty if it is one: ids and owners in order and
// each once, every expert owned, nothing above its limit.
std::string ProblemOf(const Placement& placement, const PlacementLimits& limits = {});

// The experts of each MoE layer in runs of equal length, a run a worker; where slots do not divide
// by workers, runs differ by one. The expert of (layer, slot) is layer * slots + slot. One worker
// or more, ids in any order.
Placement Contiguous(std::vector<std::string> workers, int32_t moe_layers, int32_t slots);

// Every worker owns every expert.
Placement Everywhere(std::vector<std::string> workers, size_t experts);

// `placement` as it must be when of its workers only those that are also `alive` are left: what
// nobody owns any more goes, in the order of ids, to the worker of `alive` that owns least then,
// the first of equals. Workers of `alive` that were not in it join only if something was lost.
// Nothing if nobody is alive. Epoch and plan are 0.
std::optional<Placement> Recovered(const Placement& placement,
                                   const std::vector<std::string>& alive);

// Index of the worker; nothing if it is not named, and so owns nothing.
std::optional<int32_t> IndexOf(const Placement& placement, std::string_view worker);

// False too where worker is -1 or the expert is unknown.
bool Owns(const Placement& placement, int32_t worker, ExpertId expert);

// What a worker owns, ascending.
std::vector<ExpertId> OwnedBy(const Placement& placement, std::string_view worker);
// How many experts each worker owns, [workers].
std::vector<size_t> CountOwned(const Placement& placement);

}  // namespace conclave::scheduler
