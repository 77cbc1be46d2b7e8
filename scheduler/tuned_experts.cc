#include "scheduler/tuned_experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "scheduler/check.h"

namespace conclave::scheduler {

std::vector<int32_t> ChooseTunedExperts(std::span<const double> totals, double top_p) {
  CONCLAVE_CHECK(top_p > 0.0 && top_p <= 1.0);
  constexpr double kDecimals = 1e4;
  const double sum = std::accumulate(totals.begin(), totals.end(), 0.0);
  std::vector<double> shares;
  std::vector<int32_t> slots;
  for (const double total : totals) {
    CONCLAVE_CHECK(std::isfinite(total) && total >= 0.0);
    shares.push_back(sum > 0.0 ? std::nearbyint(total / sum * kDecimals) / kDecimals : 0.0);
    if (total > 0.0) slots.push_back(static_cast<int32_t>(shares.size()) - 1);
  }
  const auto share = [&](int32_t slot) { return shares[static_cast<size_t>(slot)]; };
  std::stable_sort(slots.begin(), slots.end(),
                   [&](int32_t a, int32_t b) { return share(a) > share(b); });
  double reached = 0.0;
  size_t chosen = 0;
  while (chosen < slots.size() && reached < top_p) reached += share(slots[chosen++]);
  slots.resize(chosen);
  return slots;
}

}  // namespace conclave::scheduler
