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

// Every list of owners that has some: base experts' and adapters', in the order of ids.
template <typename P, typename Visit>
void ForEachOwned(P& placement, Visit visit) {
  for (auto& owners : placement.owners) visit(owners);
  const size_t base = placement.owners.size();
  for (auto& adapter : placement.adapters) {
    for (size_t i = 0; i < adapter.owners.size(); ++i) {
      if (adapter.replaced[i] < base) visit(adapter.owners[i]);
    }
  }
}

std::string ProblemOfAdapter(const PlacedAdapter& adapter, size_t base, size_t workers,
                             const PlacementLimits& limits) {
  if (adapter.digest.empty() || adapter.digest.size() > limits.digest)
    return "has a digest of " + std::to_string(adapter.digest.size()) + " bytes";
  if (adapter.source.empty() || adapter.source.size() > limits.source)
    return "has a source of " + std::to_string(adapter.source.size()) + " bytes";
  if (adapter.replaced.empty()) return "has no experts";
  if (!Ascending(adapter.replaced)) return "names its experts out of order or twice";
  if (adapter.replaced.back() >= 2 * base) return "replaces an expert that there is not";
  if (adapter.owners.size() != adapter.replaced.size()) return "lacks owners";
  for (size_t i = 0; i < adapter.owners.size(); ++i) {
    const bool shared = adapter.replaced[i] >= base;
    const std::string problem = shared ? std::string(adapter.owners[i].empty() ? "" : "has owners")
                                       : ProblemOfOwners(adapter.owners[i], workers);
    if (!problem.empty()) return "expert " + std::to_string(adapter.first + i) + " " + problem;
  }
  return "";
}

std::string ProblemOfAdapters(const Placement& placement, const PlacementLimits& limits) {
  if (placement.adapters.size() > limits.adapters)
    return TooMany("versions of adapters", placement.adapters.size(), limits.adapters);
  const size_t base = placement.owners.size();
  size_t end = base;
  for (const PlacedAdapter& adapter : placement.adapters) {
    const std::string problem = ProblemOfAdapter(adapter, base, placement.workers.size(), limits);
    if (!problem.empty()) return "adapter " + adapter.digest + " " + problem;
    if (adapter.first < end) return "adapter " + adapter.digest + " has ids that another has";
    end = adapter.first + adapter.replaced.size();
    if (end > limits.experts) return TooMany("ids of experts", end, limits.experts);
    if (FindAdapter(placement, adapter.digest) != &adapter)
      return "adapter " + adapter.digest + " is placed twice";
  }
  return "";
}

// Experts of adapters that each worker owns, [workers].
std::vector<size_t> CountAdapted(const Placement& placement) {
  std::vector<size_t> counts(placement.workers.size());
  for (const PlacedAdapter& adapter : placement.adapters) {
    for (const std::vector<int32_t>& owners : adapter.owners) {
      for (const int32_t owner : owners) ++counts[static_cast<size_t>(owner)];
    }
  }
  return counts;
}

// Gives every expert that nobody owns to the worker that owns least by `counts`, which it adds to.
void GiveAway(std::vector<std::vector<int32_t>>& owners, std::vector<size_t>& counts) {
  for (std::vector<int32_t>& of : owners) {
    if (!of.empty()) continue;
    const auto least = std::min_element(counts.begin(), counts.end());
    of.push_back(static_cast<int32_t>(least - counts.begin()));
    ++*least;
  }
}

void GiveAwayAdapted(Placement& placement) {
  std::vector<size_t> counts = CountAdapted(placement);
  for (PlacedAdapter& adapter : placement.adapters) {
    const auto base = static_cast<ExpertId>(placement.owners.size());
    const auto shared = std::lower_bound(adapter.replaced.begin(), adapter.replaced.end(), base);
    const auto unshared = static_cast<size_t>(shared - adapter.replaced.begin());
    adapter.owners.resize(unshared);
    GiveAway(adapter.owners, counts);
    adapter.owners.resize(adapter.replaced.size());
  }
}

// Owners by their indexes in another placement; those that it does not name go.
using Moved = std::vector<std::optional<int32_t>>;  // [old index] new one; nothing: gone

Moved MoveTo(const Placement& to, const std::vector<std::string>& workers) {
  Moved moved;
  for (const std::string& worker : workers) moved.push_back(IndexOf(to, worker));
  return moved;
}

std::vector<std::vector<int32_t>> MovedOwners(const std::vector<std::vector<int32_t>>& from,
                                              const Moved& moved) {
  std::vector<std::vector<int32_t>> to;
  for (const std::vector<int32_t>& owners : from) {
    std::vector<int32_t>& left = to.emplace_back();
    for (const int32_t owner : owners) {
      if (const auto now = moved[static_cast<size_t>(owner)]) left.push_back(*now);
    }
  }
  return to;
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
  bool any_lost = false;
  ForEachOwned(placement, [&](const auto& owners) { any_lost = any_lost || lost(owners); });
  if (any_lost) return alive;
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
  for (size_t expert = 0; expert < experts; ++expert) {
    const std::string problem = ProblemOfOwners(placement.owners[expert], workers);
    if (!problem.empty()) return "expert " + std::to_string(expert) + " " + problem;
  }
  if (std::string problem = ProblemOfAdapters(placement, limits); !problem.empty()) return problem;
  size_t copies = 0;
  ForEachOwned(placement, [&](const auto& owners) { copies += owners.size(); });
  return copies > limits.copies ? TooMany("copies of experts", copies, limits.copies) : "";
}

Placement Contiguous(std::vector<std::string> workers, int32_t moe_layers, int32_t slots) {
  CONCLAVE_CHECK(moe_layers >= 0 && slots >= 0);
  Placement placement{.workers = Sorted(std::move(workers))};
  const auto count = static_cast<int64_t>(placement.workers.size());
  for (int32_t layer = 0; layer < moe_layers; ++layer) {
    for (int64_t slot = 0; slot < slots; ++slot) {
      // Layer by layer where the one before it left off, or the first workers had all that is over.
      const int64_t run = count > slots ? slot : slot * count / slots;
      const int64_t owner = (run + int64_t{layer} * slots) % count;
      placement.owners.push_back({static_cast<int32_t>(owner)});
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
  const Moved moved = MoveTo(recovered, placement.workers);
  recovered.owners = MovedOwners(placement.owners, moved);
  recovered.adapters = placement.adapters;
  for (PlacedAdapter& adapter : recovered.adapters)
    adapter.owners = MovedOwners(adapter.owners, moved);
  std::vector<size_t> owned = CountOwned(recovered);
  GiveAway(recovered.owners, owned);
  GiveAwayAdapted(recovered);
  return recovered;
}

std::optional<int32_t> IndexOf(const Placement& placement, std::string_view worker) {
  const auto& workers = placement.workers;
  const auto found = std::lower_bound(workers.begin(), workers.end(), worker);
  if (found == workers.end() || *found != worker) return std::nullopt;
  return static_cast<int32_t>(found - workers.begin());
}

std::span<const int32_t> OwnersOf(const Placement& placement, ExpertId expert) {
  if (expert < placement.owners.size()) return placement.owners[expert];
  const auto& adapters = placement.adapters;
  const auto after = std::upper_bound(
      adapters.begin(), adapters.end(), expert,
      [](ExpertId id, const PlacedAdapter& adapter) { return id < adapter.first; });
  if (after == adapters.begin()) return {};
  const PlacedAdapter& adapter = *std::prev(after);
  const size_t index = expert - adapter.first;
  if (index >= adapter.owners.size()) return {};
  return adapter.owners[index];
}

ExpertId EndOfIds(const Placement& placement) {
  if (placement.adapters.empty()) return static_cast<ExpertId>(placement.owners.size());
  const PlacedAdapter& last = placement.adapters.back();
  return last.first + static_cast<ExpertId>(last.replaced.size());
}

const PlacedAdapter* FindAdapter(const Placement& placement, std::string_view digest) {
  const auto found =
      std::find_if(placement.adapters.begin(), placement.adapters.end(),
                   [&](const PlacedAdapter& adapter) { return adapter.digest == digest; });
  return found == placement.adapters.end() ? nullptr : &*found;
}

bool IsShared(const Placement& placement, const PlacedAdapter& adapter, ExpertId expert) {
  CONCLAVE_CHECK(expert >= adapter.first && expert - adapter.first < adapter.replaced.size());
  return adapter.replaced[expert - adapter.first] >= placement.owners.size();
}

Placement WithAdapter(Placement placement, PlacedAdapter adapter) {
  CONCLAVE_CHECK(FindAdapter(placement, adapter.digest) == nullptr);
  const size_t count = adapter.replaced.size();
  auto end = static_cast<ExpertId>(placement.owners.size());
  auto next = placement.adapters.begin();
  for (; next != placement.adapters.end() && next->first - end < count; ++next)
    end = next->first + static_cast<ExpertId>(next->replaced.size());
  adapter.first = end;
  adapter.owners.assign(count, {});
  placement.adapters.insert(next, std::move(adapter));
  GiveAwayAdapted(placement);
  return placement;
}

Placement WithoutAdapter(Placement placement, std::string_view digest) {
  std::erase_if(placement.adapters,
                [&](const PlacedAdapter& adapter) { return adapter.digest == digest; });
  return placement;
}

Placement WithAdaptersOf(Placement placement, const Placement& from) {
  CONCLAVE_CHECK(placement.owners.size() == from.owners.size());
  const Moved moved = MoveTo(placement, from.workers);
  placement.adapters = from.adapters;
  for (PlacedAdapter& adapter : placement.adapters)
    adapter.owners = MovedOwners(adapter.owners, moved);
  GiveAwayAdapted(placement);
  return placement;
}

bool Owns(const Placement& placement, int32_t worker, ExpertId expert) {
  const std::span<const int32_t> owners = OwnersOf(placement, expert);
  return std::binary_search(owners.begin(), owners.end(), worker);
}

std::vector<ExpertId> OwnedBy(const Placement& placement, std::string_view worker) {
  std::vector<ExpertId> owned;
  const std::optional<int32_t> index = IndexOf(placement, worker);
  if (!index) return owned;
  for (ExpertId expert = 0; expert < EndOfIds(placement); ++expert) {
    if (Owns(placement, *index, expert)) owned.push_back(expert);
  }
  return owned;
}

std::vector<size_t> CountOwned(const Placement& placement) {
  std::vector<size_t> counts(placement.workers.size());
  ForEachOwned(placement, [&](const std::vector<int32_t>& owners) {
    for (const int32_t owner : owners) ++counts[static_cast<size_t>(owner)];
  });
  return counts;
}

}  // namespace conclave::scheduler
