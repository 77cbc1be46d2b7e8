#include "scheduler/sum_rule.h"

#include <algorithm>
#include <utility>

#include "scheduler/check.h"

namespace conclave::scheduler {

void SumRule::Group(const Placement& placement, std::span<const ExpertId> experts,
                    std::span<int32_t> sums) {
  CONCLAVE_CHECK(placement.workers.size() == owned_.size());
  CONCLAVE_CHECK(experts.size() == sums.size());
  std::fill(sums.begin(), sums.end(), kNobody);
  const auto each_left = [&](auto call) {
    for (size_t i = 0; i < experts.size(); ++i) {
      if (sums[i] == kNobody) call(i, OwnersOf(placement, experts[i]));
    }
  };
  while (true) {
    each_left([&](size_t, std::span<const int32_t> owners) {
      for (const int32_t owner : owners) ++owned_[static_cast<size_t>(owner)];
    });
    int32_t most = 0, taker = kNobody;
    each_left([&](size_t, std::span<const int32_t> owners) {
      for (const int32_t owner : owners) {
        const int32_t owned = std::exchange(owned_[static_cast<size_t>(owner)], 0);
        if (owned > most || (owned == most && owner < taker)) {
          most = owned;
          taker = owner;
        }
      }
    });
    if (taker == kNobody) return;
    each_left([&](size_t i, std::span<const int32_t> owners) {
      if (std::binary_search(owners.begin(), owners.end(), taker)) sums[i] = taker;
    });
  }
}

}  // namespace conclave::scheduler
