// Which versions of a catalogue are in memory: who has to leave it and may, and who must because a
// worker lacks its experts.

#include <algorithm>
#include <utility>

#include "scheduler/adapter_catalogue.h"

namespace conclave::scheduler {
namespace {

bool Holds(const std::vector<std::string>& digests, const std::string& digest) {
  return std::find(digests.begin(), digests.end(), digest) != digests.end();
}

// Whether a request of it runs, or could.
bool Runs(const AdapterCatalogue::Report& router, const std::string& digest) {
  return Holds(router.in_use, digest) && !Holds(router.waiting, digest);
}

}  // namespace

// Of the placement there is; the first worker that says so gives the reason. It stays so until all
// have spoken, and while a plan is open that takes it away: who waits for it must not begin again.
bool AdapterCatalogue::StepLacks(const Known& known) {
  std::map<std::string, std::string> lacked;
  const auto& current = known.placement.current();
  const auto& next = known.placement.next();
  const auto placed = [&](const std::string& digest) {
    return current && FindAdapter(*current, digest) != nullptr;
  };
  bool all_said = true;
  for (const Worker& worker : known.workers) {
    if (!worker.alive) continue;
    all_said = all_said && worker.report != nullptr;
    if (worker.report == nullptr) continue;
    for (const auto& [digest, why] : worker.report->lacks) {
      if (placed(digest))
        lacked.try_emplace(digest, "worker " + worker.id + " lacks its experts: " + why);
    }
  }
  for (const auto& [digest, why] : lacked_) {
    const bool goes = next && FindAdapter(*next, digest) == nullptr;
    if (placed(digest) && (goes || !all_said)) lacked.try_emplace(digest, why);
    if (lacked.contains(digest)) continue;
    leaving_.erase(digest);  // what was said before does not count
  }
  return std::exchange(lacked_, lacked) != lacked;
}

// They go to disk, whatever room there is, and come back as others do: when they are asked for, and
// all workers can hold them.
bool AdapterCatalogue::MarkLacked(Micros now) {
  bool changed = false;
  for (const auto& [digest, why] : lacked_) {
    const auto version = stored_.versions.find(digest);
    if (version == stored_.versions.end()) continue;  // it is being added
    const bool was_on_disk = std::exchange(version->second.on_disk, true);
    if (was_on_disk && !rotation_.WhyNot(digest).empty()) continue;
    rotation_.Failed(digest, why, now);
    stats_.lacked += was_on_disk ? 0 : 1;
    changed = true;
  }
  return changed;
}

// Of what requests hold of each version, who comes to memory or has to leave it follows.
bool AdapterCatalogue::StepRotation(const Known& known, Micros now) {
  const Placement* const current =
      known.placement.current() ? &*known.placement.current() : nullptr;
  std::map<std::string, AdapterRotation::Use> uses;
  for (const Router& router : known.routers) {
    if (!IsHeard(router, now)) continue;
    for (const std::string& digest : router.report->in_use)
      uses[digest].runs |= Runs(*router.report, digest);
    for (const std::string& digest : router.report->waiting) uses[digest].wanted = true;
  }
  for (const Worker& worker : known.workers) {
    if (!worker.alive || worker.report == nullptr) continue;
    for (const std::string& digest : worker.report->in_use) uses[digest].runs = true;
  }
  bool changed = rotation_.Note(current, stored_.versions, uses, now);
  if (current == nullptr) return changed;
  for (auto& [digest, version] : stored_.versions) {
    if (!version.replaced.empty()) continue;  // else as an older scheduler has stored it
    if (const PlacedAdapter* const placed = FindAdapter(*current, digest))
      version.replaced = placed->replaced;
  }
  changed |= MarkLacked(now);
  if (now - started_ < options_.listen) return changed;  // nobody could leave
  while (const auto leaver = rotation_.Leaver(*current, stored_.versions, now)) {
    stored_.versions[*leaver].on_disk = true;
    ++stats_.to_disk;
    changed = true;
  }
  if (coming_) return changed;
  Placement whole = *current;
  std::erase_if(whole.adapters,
                [&](const PlacedAdapter& adapter) { return IsLacked(adapter.digest); });
  const auto stayer = rotation_.Stayer(whole, stored_.versions, now);
  if (!stayer || !Serves(known.placement, *stayer)) return changed;
  stored_.versions[*stayer].on_disk = false;
  ++stats_.to_memory;
  return true;
}

bool AdapterCatalogue::StepLeaving(const Known& known, Micros now) {
  const auto& current = known.placement.current();
  if (!current) return false;
  std::map<std::string, bool> leaves;  // digest to Leaving::to_disk
  for (const PlacedAdapter& adapter : current->adapters) {
    const bool to_disk =
        IsOnDisk(adapter.digest) && (!IsComing(adapter.digest) || IsLacked(adapter.digest));
    if (to_disk || !IsWanted(adapter.digest)) leaves[adapter.digest] = to_disk;
  }
  for (const auto& [digest, version] : stored_.versions) {
    if (version.on_disk && !IsWanted(digest)) leaves.try_emplace(digest, false);
  }
  std::erase_if(leaving_, [&](const auto& one) {
    const auto still = leaves.find(one.first);
    return still == leaves.end() || still->second != one.second.to_disk;
  });
  bool changed = false;
  for (const auto& [digest, to_disk] : leaves) {
    const auto [leaving, is_new] =
        leaving_.try_emplace(digest, Leaving{.to_disk = to_disk, .view = known.view + 1});
    changed |= is_new;
    const bool quiet =
        now - started_ >= options_.listen &&
        std::none_of(known.routers.begin(), known.routers.end(), [&](const Router& router) {
          return MayHold(router, digest, leaving->second, now);
        });
    if (!quiet) leaving->second.quiet.reset();
    if (quiet && !leaving->second.quiet) leaving->second.quiet = now;
  }
  return changed;
}

// Whether requests of a router hold it, or may come to.
bool AdapterCatalogue::MayHold(const Router& router, const std::string& digest,
                               const Leaving& leaving, Micros now) const {
  if (!IsHeard(router, now)) return false;
  if (router.report->view < leaving.view) return true;
  return leaving.to_disk ? Runs(*router.report, digest) : Holds(router.report->in_use, digest);
}

// One that is silent for long does not count.
bool AdapterCatalogue::IsHeard(const Router& router, Micros now) const {
  return router.report != nullptr && now - router.report->at < options_.silent;
}

bool AdapterCatalogue::MayGo(const Leaving& leaving, const std::string& digest,
                             const Known& known) const {
  if (!leaving.quiet) return false;
  return std::all_of(known.workers.begin(), known.workers.end(), [&](const Worker& worker) {
    if (!worker.alive) return true;
    return worker.report != nullptr && worker.report->view >= leaving.view &&
           worker.report->at > *leaving.quiet && !Holds(worker.report->in_use, digest);
  });
}

}  // namespace conclave::scheduler
