#include <cstdio>

#include "tests/sim/cluster_sim.h"
#include "tests/sim/seeds.h"

int main(int argc, char** argv) {
  using conclave::sim::ClusterTotals;
  const auto say = [](unsigned long long seeds, double took, const ClusterTotals& totals) {
    const auto n = [](uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf(
        "%llu seeds kept every promise in %.2f s: %llu requests (%llu completed, %llu cancelled, "
        "%llu moves to another home), %llu tokens, %llu steps and %llu done again, %llu frames "
        "(%llu refused, %llu of fenced senders, %llu rows asked of a replica too), %llu plans "
        "(%llu committed, %llu taken back), %llu emergency epochs, %llu crashes and %llu of the "
        "scheduler, %llu stops, %llu cuts, %llu adapters added, %llu replaced, %llu removed, %llu "
        "refused, %llu versions freed, %llu of them to disk and %llu back, for which %llu requests "
        "gave up waiting, %llu directories damaged and %llu versions lacked for it, %.0f s of "
        "virtual time\n",
        seeds, took, n(totals.requests), n(totals.completed), n(totals.cancelled), n(totals.moved),
        n(totals.tokens), n(totals.steps), n(totals.steps_redone), n(totals.frames),
        n(totals.refused), n(totals.fenced), n(totals.hedged), n(totals.plans), n(totals.committed),
        n(totals.aborted), n(totals.emergencies), n(totals.crashes), n(totals.scheduler_crashes),
        n(totals.stops), n(totals.cuts), n(totals.added), n(totals.replaced), n(totals.removed),
        n(totals.failed), n(totals.versions_freed), n(totals.to_disk), n(totals.to_memory),
        n(totals.gave_up), n(totals.damaged), n(totals.lacked), totals.virtual_seconds);
  };
  return conclave::sim::RunSeeds<ClusterTotals>(argc, argv, "cluster_sim",
                                                conclave::sim::SimulateCluster, say);
}
