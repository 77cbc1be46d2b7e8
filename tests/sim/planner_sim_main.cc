#include <cstdio>

#include "tests/sim/planner_sim.h"
#include "tests/sim/seeds.h"

int main(int argc, char** argv) {
  using conclave::sim::Totals;
  const auto say = [](unsigned long long seeds, double took, const Totals& totals) {
    const auto n = [](uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf(
        "%llu seeds kept every promise in %.2f s: %llu requests (%llu completed, %llu refused, "
        "%llu cancelled, %llu late, %llu failed), %llu steps, %llu tokens computed and %llu "
        "reused, %llu proposed and %llu of them accepted, %llu steps abandoned, %llu copies, %llu "
        "evictions, %llu preemptions, %.0f s of virtual time\n",
        seeds, took, n(totals.requests), n(totals.completed), n(totals.refused),
        n(totals.cancelled), n(totals.late), n(totals.failed), n(totals.steps), n(totals.tokens),
        n(totals.reused), n(totals.proposed), n(totals.accepted), n(totals.abandoned),
        n(totals.copies), n(totals.evictions), n(totals.preemptions), totals.virtual_seconds);
  };
  return conclave::sim::RunSeeds<Totals>(argc, argv, "planner_sim", conclave::sim::SimulatePlanner,
                                         say);
}
