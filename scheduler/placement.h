#pragma once
// Which workers own which expert, base or adapter's: plain data with a number, the epoch, and the
// pure functions that make one, judge one and compare two. Immutable once made; any thread.
//
// The base model's experts have the ids below owners.size(). Above them each version of an adapter
// has a run of ids of its own, which it keeps from epoch to epoch; what is freed leaves a gap.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

// A version of an adapter that is served: its experts, and what of the base model each stands for.
struct PlacedAdapter {
  std::string digest;  // the version, in hex
  std::string source;  // the directory, as every worker reaches it
  ExpertId first = 0;  // the experts are first, first + 1, ...
  // [experts] ascending. Below the base's number of experts the id of an expert; from there on, in
  // the order of MoE layers, the shared expert of one.
  std::vector<ExpertId> replaced;
  // [experts] as Placement's; of a shared expert none: every worker holds it, for its own rows.
  std::vector<std::vector<int32_t>> owners;

  bool operator==(const PlacedAdapter&) const = default;
};

struct Placement {
  Epoch epoch = 0;                   // 0: not committed to one yet
  uint64_t plan = 0;                 // that brought it; never used twice
  std::vector<std::string> workers;  // ids, ascending; one may own nothing
  std::vector<std::vector<int32_t>>
      owners;  // [base experts] ascending indexes into workers, one or more
  std::vector<PlacedAdapter> adapters;  // ascending by `first`, which do not overlap

  bool operator==(const Placement&) const = default;
};

struct PlacementLimits {
  size_t workers = 1024;
  size_t experts = 1 << 17;  // ids, gaps among them counted too
  size_t copies = 1 << 19;   // of all experts together
  size_t adapters = 1024;    // versions
  size_t digest = 128;       // bytes
  size_t source = 4096;      // bytes
};

// Why `placement` is none, naming worker or expert; empty if it is one: ids and owners in order and
// each once, every expert owned but shared ones, which nobody owns; ids that do not overlap; each
// version of an adapter once; nothing above its limit.
std::string ProblemOf(const Placement& placement, const PlacementLimits& limits = {});

// The experts of each MoE layer in runs of equal length, a run a worker; where slots do not divide
// by workers, runs differ by one, and who has the longer ones turns from layer to layer. The expert
// of (layer, slot) is layer * slots + slot. One worker or more, ids in any order.
Placement Contiguous(std::vector<std::string> workers, int32_t moe_layers, int32_t slots);

// Every worker owns every expert.
Placement Everywhere(std::vector<std::string> workers, size_t experts);

// Who owns the expert; empty where the id is nobody's.
std::span<const int32_t> OwnersOf(const Placement& placement, ExpertId expert);
// One above the highest id.
ExpertId EndOfIds(const Placement& placement);
// The version with this digest; null: it is not placed.
const PlacedAdapter* FindAdapter(const Placement& placement, std::string_view digest);

// Whether it stands for a shared expert.
bool IsShared(const Placement& placement, const PlacedAdapter& adapter, ExpertId expert);

// `placement` with one version more: its ids are the first free run that is long enough, and each
// of its experts goes to the worker that owns the fewest experts of adapters by then, the first of
// equals. `first` and `owners` of `adapter` do not count.
Placement WithAdapter(Placement placement, PlacedAdapter adapter);
Placement WithoutAdapter(Placement placement, std::string_view digest);
// The base experts as `placement` has them with the versions of `from`, which keep their ids and
// those of their owners that `placement` names; what has none left goes as WithAdapter's.
Placement WithAdaptersOf(Placement placement, const Placement& from);

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
