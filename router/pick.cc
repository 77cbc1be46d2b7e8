#include "router/pick.h"

#include <algorithm>

namespace conclave::router {
namespace {

// splitmix64's finaliser: spreads (seed, worker) so that ties fall evenly.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

bool CanTake(const WorkerView& worker, const Demand& demand, const HomeLimits& limits) {
  if (!worker.ready || worker.model != demand.model) return false;
  if (worker.requests == 0) return true;
  return worker.requests < limits.requests && worker.tokens + demand.tokens <= limits.tokens;
}

double Load(const WorkerView& worker, const HomeLimits& limits) {
  return std::max(static_cast<double>(worker.requests) / limits.requests,
                  static_cast<double>(worker.tokens) / static_cast<double>(limits.tokens));
}

std::optional<size_t> PickHome(std::span<const WorkerView> workers, const Demand& demand,
                               const HomeLimits& limits, uint64_t seed) {
  std::optional<size_t> best;
  double best_load = 0;
  const bool trusted = std::any_of(workers.begin(), workers.end(), [&](const WorkerView& worker) {
    return worker.ready && !worker.suspect && worker.model == demand.model;
  });
  uint64_t best_tie = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    if (!CanTake(workers[i], demand, limits) || (trusted && workers[i].suspect)) continue;
    if (workers[i].key == demand.preferred) return i;
    const double load = Load(workers[i], limits);
    const uint64_t tie = Mix(seed ^ Mix(workers[i].key));
    if (!best || load < best_load || (load == best_load && tie < best_tie)) {
      best = i;
      best_load = load;
      best_tie = tie;
    }
  }
  return best;
}

}  // namespace conclave::router
