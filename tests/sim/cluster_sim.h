#pragma once
// One seed: a cluster's life in virtual time. Workers with experts spread over them compute each
// other's rows under the real decisions on placements (Membership, PlacementChange, EpochKeeper,
// DispatchRule) while plans are applied, processes crash, stop and come back, the scheduler too,
// and the wire delays, drops, duplicates, reorders and is cut. Then all faults end, and everything
// that was begun must end as well. No threads, no clock. Idea: FoundationDB's and TigerBeetle's
// simulators; the two phases are TigerBeetle's.

#include <cstdint>
#include <optional>
#include <string>

#include "tests/sim/cluster_world.h"

namespace conclave::sim {

// Adds what happened to `totals`. The broken promise, with the seed, or nothing.
std::optional<std::string> SimulateCluster(uint64_t seed, ClusterTotals* totals);

}  // namespace conclave::sim
