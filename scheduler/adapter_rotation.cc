#include "scheduler/adapter_rotation.h"

#include <algorithm>
#include <utility>

namespace conclave::scheduler {
namespace {

constexpr int32_t kMostDoublings = 16;

}  // namespace

PlacedAdapter ToBePlaced(const std::string& digest, const AdapterVersion& version) {
  return {.digest = digest, .source = version.source, .replaced = version.replaced};
}

std::vector<uint64_t> AdapterBytes(const Placement& placement,
                                   const AdapterRotation::Versions& versions) {
  std::vector<uint64_t> bytes(placement.workers.size(), 0);
  for (const PlacedAdapter& adapter : placement.adapters) {
    const auto found = versions.find(adapter.digest);
    if (found == versions.end()) continue;
    // A model's experts are of one size, but for shared ones, which all have.
    const auto routed = static_cast<uint64_t>(
        std::count_if(adapter.owners.begin(), adapter.owners.end(),
                      [](const std::vector<int32_t>& owners) { return !owners.empty(); }));
    const AdapterVersion& version = found->second;
    const uint64_t each = routed == 0 ? 0 : (version.bytes - version.shared_bytes) / routed;
    for (uint64_t& one : bytes) one += version.shared_bytes;
    for (const std::vector<int32_t>& owners : adapter.owners) {
      for (const int32_t owner : owners) bytes[static_cast<size_t>(owner)] += each;
    }
  }
  return bytes;
}

bool AdapterRotation::Note(const Placement* placement, const Versions& versions,
                           const std::map<std::string, Use>& uses, Micros now) {
  bool changed = false;
  std::erase_if(known_, [&](const auto& one) { return !versions.contains(one.first); });
  for (const auto& [digest, version] : versions) {
    const auto [at, is_new] = known_.try_emplace(digest, Known{.since = now, .used = now});
    Known& known = at->second;
    if (known.in_memory == version.on_disk) known.since = now;
    known.in_memory = !version.on_disk;
    if (known.in_memory) {
      changed |= !std::exchange(known.why_not, "").empty();
      known.not_before = Micros::zero();
      known.failed = 0;
    }
    const auto use = uses.find(digest);
    const bool wanted = use != uses.end() && use->second.wanted;
    known.busy = wanted || (use != uses.end() && use->second.runs);
    if (known.busy) known.used = now;
    if (!version.on_disk || !wanted) {
      known.wanted.reset();
    } else if (!known.wanted) {
      known.wanted = now;
    }
    if (!known.wanted || placement == nullptr || now < known.not_before) continue;
    if (known.judged == placement->epoch) continue;
    std::string problem = ProblemOf(*placement, ToBePlaced(digest, version), version);
    if (problem.empty()) {
      known.judged = placement->epoch;
      continue;
    }
    changed |= known.why_not != problem;
    Failed(digest, std::move(problem), now);
  }
  return changed;
}

bool AdapterRotation::Fits(const Placement& placement, const Versions& versions) const {
  if (options_.bytes == 0) return true;
  const std::vector<uint64_t> bytes = AdapterBytes(placement, versions);
  return std::all_of(bytes.begin(), bytes.end(),
                     [&](uint64_t one) { return one <= options_.bytes; });
}

std::string AdapterRotation::ProblemOf(const Placement& placement, const PlacedAdapter& adapter,
                                       const AdapterVersion& version) const {
  if (options_.bytes == 0) return "";
  const Placement alone = {.workers = placement.workers, .owners = placement.owners};
  const std::vector<uint64_t> bytes =
      AdapterBytes(WithAdapter(alone, adapter), {{adapter.digest, version}});
  const auto most = std::max_element(bytes.begin(), bytes.end());
  if (most == bytes.end() || *most <= options_.bytes) return "";
  return "its experts take " + std::to_string(*most) + " bytes on worker " +
         placement.workers[static_cast<size_t>(most - bytes.begin())] +
         ", those of all adapters may take " + std::to_string(options_.bytes) +
         " (--adapter-bytes)";
}

std::vector<std::string> AdapterRotation::Wanted(const Versions& versions, Micros now) const {
  std::vector<std::pair<Micros, std::string>> wanted;
  for (const auto& [digest, version] : versions) {
    const auto known = known_.find(digest);
    if (known == known_.end() || !known->second.wanted || now < known->second.not_before) continue;
    wanted.emplace_back(*known->second.wanted, digest);
  }
  std::sort(wanted.begin(), wanted.end());
  std::vector<std::string> digests;
  for (auto& [since, digest] : wanted) digests.push_back(std::move(digest));
  return digests;
}

Placement AdapterRotation::Staying(const Placement& placement, const Versions& versions,
                                   Micros now) const {
  Placement staying = placement;
  std::erase_if(staying.adapters, [&](const PlacedAdapter& adapter) {
    const auto version = versions.find(adapter.digest);
    const auto known = known_.find(adapter.digest);
    return version != versions.end() && version->second.on_disk && known != known_.end() &&
           (known->second.in_memory || now - known->second.since < options_.turn);
  });
  return staying;
}

bool AdapterRotation::Suffices(const Placement& placement, const Versions& versions,
                               Micros now) const {
  if (!Fits(placement, versions)) return false;
  for (const std::string& digest : Wanted(versions, now)) {
    if (FindAdapter(placement, digest) != nullptr) continue;
    return Fits(WithAdapter(placement, ToBePlaced(digest, versions.at(digest))), versions);
  }
  return true;
}

std::optional<std::string> AdapterRotation::Leaver(const Placement& placement,
                                                   const Versions& versions, Micros now) const {
  if (options_.bytes == 0) return std::nullopt;
  if (Fits(placement, versions) && Wanted(versions, now).empty()) return std::nullopt;
  const Placement staying = Staying(placement, versions, now);
  if (Suffices(staying, versions, now)) return std::nullopt;
  return Victim(staying, versions, now);
}

std::optional<std::string> AdapterRotation::Stayer(const Placement& placement,
                                                   const Versions& versions, Micros now) const {
  // The same are counted on to leave as Leaver does, or both would undo what the other did.
  const Placement staying = Staying(placement, versions, now);
  for (const PlacedAdapter& adapter : placement.adapters) {
    const auto version = versions.find(adapter.digest);
    if (version == versions.end() || !version->second.on_disk) continue;
    Placement with = placement;
    std::erase_if(with.adapters, [&](const PlacedAdapter& other) {
      return other.digest != adapter.digest && FindAdapter(staying, other.digest) == nullptr;
    });
    if (Suffices(with, versions, now)) return adapter.digest;
  }
  return std::nullopt;
}

// Of those that had their turn: who is idle goes before all that are busy.
std::optional<std::string> AdapterRotation::Victim(const Placement& placement,
                                                   const Versions& versions, Micros now) const {
  struct Candidate {
    bool busy = false;
    Micros at{};  // used last, or in memory since
    std::string digest;
    auto operator<=>(const Candidate&) const = default;
  };
  std::optional<Candidate> first;
  for (const PlacedAdapter& adapter : placement.adapters) {
    const auto version = versions.find(adapter.digest);
    const auto at = known_.find(adapter.digest);
    if (version == versions.end() || version->second.replaced.empty() || at == known_.end())
      continue;
    const Known& known = at->second;
    if (version->second.on_disk || now - known.since < options_.turn) continue;
    const Candidate candidate{known.busy, known.busy ? known.since : known.used, adapter.digest};
    if (!first || candidate < *first) first = candidate;
  }
  if (!first) return std::nullopt;
  return first->digest;
}

std::optional<std::string> AdapterRotation::Comer(const Placement& placement,
                                                  const Versions& versions, Micros now) const {
  for (const std::string& digest : Wanted(versions, now)) {
    if (FindAdapter(placement, digest) != nullptr) continue;
    const AdapterVersion& version = versions.at(digest);
    // Nobody goes past the first, or a large one would wait for ever.
    if (!Fits(WithAdapter(placement, ToBePlaced(digest, version)), versions)) return std::nullopt;
    return digest;
  }
  return std::nullopt;
}

void AdapterRotation::Failed(const std::string& digest, std::string why, Micros now) {
  const auto known = known_.find(digest);
  if (known == known_.end()) return;
  const int32_t doublings = std::min(known->second.failed++, kMostDoublings);
  known->second.not_before =
      now + std::min(options_.again_longest, options_.again * (int64_t{1} << doublings));
  known->second.why_not = std::move(why);
}

std::string AdapterRotation::WhyNot(const std::string& digest) const {
  const auto known = known_.find(digest);
  return known == known_.end() ? "" : known->second.why_not;
}

}  // namespace conclave::scheduler
