#pragma once
// (adapter, layer, slot) -> expert id. The gate picks slots; everything after it speaks of experts
// by id, so that adapters, replicas and moved experts are entries of a table and never special
// cases in the step. Read by the engine thread; replaced as a whole between two steps.

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/types.h"

namespace conclave::worker {

using AdapterIndex = int32_t;  // 0: the base model

class ExpertTable {
 public:
  // The base model alone: the expert of (layer, slot) is layer_index * slots + slot, counting MoE
  // layers only.
  ExpertTable(int32_t moe_layers, int32_t slots);

  int32_t moe_layers() const { return moe_layers_; }
  int32_t slots() const { return slots_; }

  // experts[i] = id of what slots[i] means to a row of `adapter` in MoE layer `layer`.
  void Resolve(AdapterIndex adapter, int32_t layer, std::span<const int32_t> slots,
               std::span<scheduler::ExpertId> experts) const;

 private:
  int32_t moe_layers_;
  int32_t slots_;
  std::vector<std::vector<scheduler::ExpertId>> ids_;  // [adapter][layer * slots + slot]
};

}  // namespace conclave::worker
