#include "worker/experts/expert_table.h"

#include <numeric>

#include "scheduler/check.h"

namespace conclave::worker {

ExpertTable::ExpertTable(int32_t moe_layers, int32_t slots)
    : moe_layers_(moe_layers), slots_(slots) {
  std::vector<scheduler::ExpertId> base(static_cast<size_t>(moe_layers) *
                                        static_cast<size_t>(slots));
  std::iota(base.begin(), base.end(), scheduler::ExpertId{0});
  ids_.push_back(std::move(base));
}

void ExpertTable::Resolve(AdapterIndex adapter, int32_t layer, std::span<const int32_t> slots,
                          std::span<scheduler::ExpertId> experts) const {
  CONCLAVE_CHECK(adapter >= 0 && static_cast<size_t>(adapter) < ids_.size());
  CONCLAVE_CHECK(layer >= 0 && layer < moe_layers_ && slots.size() == experts.size());
  const scheduler::ExpertId* row = ids_[static_cast<size_t>(adapter)].data() + layer * slots_;
  for (size_t i = 0; i < slots.size(); ++i) experts[i] = row[slots[i]];
}

}  // namespace conclave::worker
