#include "scheduler/placement.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "scheduler/check.h"

namespace conclave::scheduler {
namespace {

bool Ascending(const auto& values) {
  return std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) == values.end();
}

std::vector<std::string> Sorted(std::vector<std::string> workers) {
  std::sort(workers.begin(), workers.end());
  CONCLAVE_CHECK(!workers.empty());
  CONCLAVE_CHECK(Ascending(workers));
  return workers;
}

std::string TooMany(const std::string& what, size_t count, size_t limit) {
  return std::to_string(count) + " " + what + ", the limit is " + std::to_string(limit);
}

std::string ProblemOfOwners(const std::vector<int32_t>& owners, size_t workers) {
  if (owners.empty()) return "has no owner";
  for (const int32_t owner : owners) {
    if (owner < 0 || static_cast<size_t>(owner) >= workers) {
      return "is given to worker " + std::to_string(owner) + " of " + std::to_string(workers);
    }
  }
  return Ascending(owners) ? "" : "names its owners out of order or twice";
}

// Of `alive`, those that a recovered placement names: all if something is lost, which the least
// laden of all take up; else those that were in it.
std::vector<std::string> Survivors(const Placement& placement, std::vector<std::string> alive) {
  std::vector<bool> survives;
  for (const std::string& worker : placement.workers)
    survives.push_back(std::binary_search(alive.begin(), alive.end(), worker));
  const auto lost = [&](const std::vector<int32_t>& owners) {
    return std::none_of(owners.begin(), owners.end(),
                        [&](int32_t owner) { return survives[static_cast<size_t>(owner)]; });
  };
  if (std::any_of(placement.owners.begin(), placement.owners.end(), lost)) return alive;
  std::vector<std::string> stayed;
  std::set_intersection(alive.begin(), alive.end(), placement.workers.begin(),
                        placement.workers.end(), std::back_inserter(stayed));
  return stayed.empty() ? alive : stayed;
}

}  // namespace

std::string ProblemOf(const Placement& placement, const PlacementLimits& limits) {
  const size_t workers = placement.workers.size();
  if (workers == 0) return "no workers";
  if (workers > limits.workers) return TooMany("workers", workers, limits.workers);
  if (!Ascending(placement.workers)) return "workers are out of order or named twice";
  const size_t experts = placement.owners.size();
  if (experts > limits.experts) return TooMany("experts", experts, limits.experts);
  size_t copies = 0;
  for (size_t expert = 0; expert < experts; ++expert) {
    const std::string problem = ProblemOfOwners(placement.owners[expert], workers);
    if (!problem.empty()) return "expert " + std::to_string(expert) + " " + problem;
    copies += placement.owners[expert].size();
  }
  return copies > limits.copies ? TooMany("copies of experts", copies, limits.copies) : "";
}

Placement Contiguous(std::vector<std::string> workers, int32_t moe_layers, int32_t slots) {
  CONCLAVE_CHECK(moe_layers >= 0 && slots >= 0);
  Placement placement{.workers = Sorted(std::move(workers))};
  const auto count = static_cast<int64_t>(placement.workers.size());
  for (int32_t layer = 0; layer < moe_layers; ++layer) {
    for (int64_t slot = 0; slot < slots; ++slot) {
      placement.owners.push_back({static_cast<int32_t>(slot * count / slots)});
    }
  }
  return placement;
}

Placement Everywhere(std::vector<std::string> workers, size_t experts) {
  Placement placement{.workers = Sorted(std::move(workers))};
  std::vector<int32_t> all(placement.workers.size());
  std::iota(all.begin(), all.end(), 0);
  placement.owners.assign(experts, all);
  return placement;
}

std::optional<Placement> Recovered(const Placement& placement,
                                   const std::vector<std::string>& alive) {
  if (alive.empty()) return std::nullopt;
  Placement recovered{.workers = Survivors(placement, Sorted(alive))};
  std::vector<std::optional<int32_t>> moved;  // [old index] new one; nothing: gone
  for (const std::string& worker : placement.workers) moved.push_back(IndexOf(recovered, worker));
  for (const std::vector<int32_t>& owners : placement.owners) {
    std::vector<int32_t>& left = recovered.owners.emplace_back();
    for (const int32_t owner : owners) {
      if (const auto now = moved[static_cast<size_t>(owner)]) left.push_back(*now);
    }
  }
  std::vector<size_t> owned = CountOwned(recovered);
  for (std::vector<int32_t>& owners : recovered.owners) {
    if (!owners.empty()) continue;
    const auto least = std::min_element(owned.begin(), owned.end());
    owners.push_back(static_cast<int32_t>(least - owned.begin()));
    ++*least;
  }
  return recovered;
}

std::optional<int32_t> IndexOf(const Placement& placement, std::string_view worker) {
  const auto& workers = placement.workers;
  const auto found = std::lower_bound(workers.begin(), workers.end(), worker);
  if (found == workers.end() || *found != worker) return std::nullopt;
  return static_cast<int32_t>(found - workers.begin());
}

bool Owns(const Placement& placement, int32_t worker, ExpertId expert) {
  if (expert >= placement.owners.size()) return false;
  const std::vector<int32_t>& owners = placement.owners[expert];
  return std::binary_search(owners.begin(), owners.end(), worker);
}

std::vector<ExpertId> OwnedBy(const Placement& placement, std::string_view worker) {
  std::vector<ExpertId> owned;
  const std::optional<int32_t> index = IndexOf(placement, worker);
  if (!index) return owned;
  for (ExpertId expert = 0; expert < placement.owners.size(); ++expert) {
    if (Owns(placement, *index, expert)) owned.push_back(expert);
  }
  return owned;
}

std::vector<size_t> CountOwned(const Placement& placement) {
  std::vector<size_t> counts(placement.workers.size());
  for (const std::vector<int32_t>& owners : placement.owners) {
    for (const int32_t owner : owners) ++counts[static_cast<size_t>(owner)];
  }
  return counts;
}

}  // namespace conclave::scheduler
