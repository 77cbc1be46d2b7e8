#include "worker/experts/expert_table.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "scheduler/check.h"

namespace conclave::worker {

using scheduler::ExpertId;
using scheduler::PlacedAdapter;

ExpertTable::ExpertTable(int32_t moe_layers, int32_t slots)
    : moe_layers_(moe_layers), slots_(slots) {
  Version& base = versions_.emplace_back();
  base.ids.resize(static_cast<size_t>(moe_layers) * static_cast<size_t>(slots));
  std::iota(base.ids.begin(), base.ids.end(), ExpertId{0});
}

void ExpertTable::SetAdapters(std::span<const PlacedAdapter> adapters) {
  const auto gone = [&](const Version& version) {
    return std::none_of(adapters.begin(), adapters.end(), [&](const PlacedAdapter& adapter) {
      return adapter.digest == version.digest;
    });
  };
  for (size_t i = 1; i < versions_.size(); ++i) {
    if (gone(versions_[i])) versions_[i] = {};
  }
  for (const PlacedAdapter& adapter : adapters) {
    // Its own place, or the first that is free.
    const auto place = std::find_if(versions_.begin() + 1, versions_.end(),
                                    [&](const auto& one) { return one.digest == adapter.digest; });
    const auto free = std::find_if(versions_.begin() + 1, versions_.end(),
                                   [](const auto& one) { return one.digest.empty(); });
    Version version = Make(adapter);
    if (place != versions_.end()) {
      *place = std::move(version);
    } else if (free != versions_.end()) {
      *free = std::move(version);
    } else {
      versions_.push_back(std::move(version));
    }
  }
}

ExpertTable::Version ExpertTable::Make(const PlacedAdapter& adapter) const {
  Version version{.digest = adapter.digest, .ids = versions_[kBase].ids};
  for (size_t i = 0; i < adapter.replaced.size(); ++i) {
    const ExpertId id = adapter.first + static_cast<ExpertId>(i);
    const size_t replaced = adapter.replaced[i];
    if (replaced < version.ids.size()) {
      version.ids[replaced] = id;
    } else {
      version.shared[static_cast<int32_t>(replaced - version.ids.size())] = id;
    }
  }
  return version;
}

std::optional<AdapterIndex> ExpertTable::Find(std::string_view digest) const {
  if (digest.empty()) return kBase;
  for (size_t i = 1; i < versions_.size(); ++i) {
    if (versions_[i].digest == digest) return static_cast<AdapterIndex>(i);
  }
  return std::nullopt;
}

void ExpertTable::Resolve(AdapterIndex adapter, int32_t layer, std::span<const int32_t> slots,
                          std::span<ExpertId> experts) const {
  CONCLAVE_CHECK(adapter >= 0 && static_cast<size_t>(adapter) < versions_.size());
  CONCLAVE_CHECK(layer >= 0 && layer < moe_layers_ && slots.size() == experts.size());
  const Version& version = versions_[static_cast<size_t>(adapter)];
  CONCLAVE_CHECK(!version.ids.empty());
  const ExpertId* row = version.ids.data() + layer * slots_;
  for (size_t i = 0; i < slots.size(); ++i) experts[i] = row[slots[i]];
}

std::optional<ExpertId> ExpertTable::Shared(AdapterIndex adapter, int32_t layer) const {
  CONCLAVE_CHECK(adapter >= 0 && static_cast<size_t>(adapter) < versions_.size());
  const Version& version = versions_[static_cast<size_t>(adapter)];
  const auto found = version.shared.find(layer);
  if (found == version.shared.end()) return std::nullopt;
  return found->second;
}

}  // namespace conclave::worker
