#include "router/pick.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace conclave::router {
namespace {

// splitmix64's finaliser: spreads (seed, worker) so that ties fall evenly.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The share of a worker's others that complains about it, of those whose voice counts.
double ComplaintsOf(const WorkerView& worker, std::span<const WorkerView> workers) {
  int others = 0, complaints = 0;
  for (const WorkerView& other : workers) {
    if (other.key == worker.key || !other.ready || other.model != worker.model) continue;
    ++others;
    if (other.late) continue;
    complaints += std::find(other.finds_late.begin(), other.finds_late.end(), worker.id) !=
                  other.finds_late.end();
  }
  return others == 0 ? 0.0 : static_cast<double>(complaints) / others;
}

bool HasRoom(const WorkerView& worker, const Demand& demand, const HomeLimits& limits) {
  if (!worker.ready || worker.model != demand.model) return false;
  if (worker.requests == 0) return true;
  const int64_t percent = 100 - demand.kept_percent;
  return 100 * int64_t{worker.requests} < percent * limits.requests &&
         100 * (worker.tokens + demand.tokens) <= percent * limits.tokens;
}

// Of its places, those that this router uses already and those that it may use yet, some may be
// kept.
bool HasCredit(const WorkerView& worker, const Demand& demand) {
  if (demand.goes_on || !worker.credit) return true;
  constexpr uint64_t kMany = 1 << 30;  // of a worker that grants without end
  const uint64_t places = static_cast<uint64_t>(worker.requests) + std::min(*worker.credit, kMany);
  return *worker.credit > places * static_cast<uint64_t>(demand.kept_percent) / 100;
}

}  // namespace

bool CanTake(const WorkerView& worker, const Demand& demand, const HomeLimits& limits) {
  return HasCredit(worker, demand) && HasRoom(worker, demand, limits);
}

void NoteLate(std::span<WorkerView> workers) {
  for (WorkerView& worker : workers) worker.late = false;
  for (;;) {
    double most = 0.5;
    std::vector<WorkerView*> latest;
    for (WorkerView& worker : workers) {
      if (worker.late) continue;
      const double share = ComplaintsOf(worker, workers);
      if (share > most) latest.clear();
      if (share > 0.5 && share >= most) latest.push_back(&worker);
      most = std::max(most, share);
    }
    if (latest.empty()) return;
    for (WorkerView* const worker : latest) worker->late = true;
  }
}

Score ScoreOf(const WorkerView& worker, const Demand& demand, const HomeLimits& limits) {
  return {
      .late = worker.late,
      .lacks = worker.lacks,
      .left = worker.key == demand.left,
      .tight = worker.room && *worker.room < demand.tokens,
      .load = std::max(static_cast<double>(worker.requests) / limits.requests,
                       static_cast<double>(worker.tokens) / static_cast<double>(limits.tokens))};
}

std::optional<size_t> PickHome(std::span<const WorkerView> workers, const Demand& demand,
                               const HomeLimits& limits, uint64_t seed) {
  const bool trusted = std::any_of(workers.begin(), workers.end(), [&](const WorkerView& worker) {
    return worker.ready && !worker.suspect && worker.model == demand.model;
  });
  // It waits for the credit of one of these rather than go to one that is late.
  const bool prompt = std::any_of(workers.begin(), workers.end(), [&](const WorkerView& worker) {
    return !worker.late && !(trusted && worker.suspect) && HasRoom(worker, demand, limits);
  });
  std::optional<size_t> best;
  std::pair<Score, uint64_t> best_score;  // and the tie
  for (size_t i = 0; i < workers.size(); ++i) {
    if (!CanTake(workers[i], demand, limits) || (trusted && workers[i].suspect)) continue;
    if (prompt && workers[i].late && workers[i].key != demand.preferred) continue;
    if (workers[i].key == demand.preferred) return i;
    const std::pair score(ScoreOf(workers[i], demand, limits), Mix(seed ^ Mix(workers[i].key)));
    if (best && !(score < best_score)) continue;
    best = i;
    best_score = score;
  }
  return best;
}

}  // namespace conclave::router
