#pragma once
// (adapter, layer, slot) -> expert id. The gate picks slots; everything after it speaks of experts
// by id, so that adapters, replicas and moved experts are entries of a table and never special
// cases in the step. The engine thread's; changed between two steps.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/placement.h"
#include "scheduler/types.h"

namespace conclave::worker {

using AdapterIndex = int32_t;  // 0: the base model

class ExpertTable {
 public:
  // The base model alone: the expert of (layer, slot) is layer * slots + slot, counting MoE layers
  // only. Above them, in the numbers that adapters replace, the shared experts of the layers.
  ExpertTable(int32_t moe_layers, int32_t slots);

  int32_t moe_layers() const { return moe_layers_; }
  int32_t slots() const { return slots_; }

  // The adapters there are from now on, whole. A version keeps its index as long as it is among
  // them; one that is gone has none any more, and another may get it later.
  void SetAdapters(std::span<const scheduler::PlacedAdapter> adapters);

  static constexpr AdapterIndex kBase = 0;
  // The version with this digest; empty: the base model. Nothing: there is none.
  std::optional<AdapterIndex> Find(std::string_view digest) const;

  // experts[i] = id of what slots[i] means to a row of `adapter` in MoE layer `layer`.
  void Resolve(AdapterIndex adapter, int32_t layer, std::span<const int32_t> slots,
               std::span<scheduler::ExpertId> experts) const;
  // What stands for the shared expert of a MoE layer; nothing: the base's own.
  std::optional<scheduler::ExpertId> Shared(AdapterIndex adapter, int32_t layer) const;

 private:
  struct Version {
    std::string digest;                             // empty in a place that is free
    std::vector<scheduler::ExpertId> ids;           // [layer * slots + slot]
    std::map<int32_t, scheduler::ExpertId> shared;  // by MoE layer
  };
  Version Make(const scheduler::PlacedAdapter& adapter) const;

  int32_t moe_layers_;
  int32_t slots_;
  std::vector<Version> versions_;  // [adapter index]
};

}  // namespace conclave::worker
