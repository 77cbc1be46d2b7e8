#pragma once
// The seam between a home and the workers that own experts: dispatch rows, do something useful,
// combine. Engine thread only. The step does not know where an expert runs.

#include <span>

#include "absl/status/status.h"
#include "scheduler/types.h"
#include "worker/device/tensor.h"

namespace conclave::worker {

class Exchange {
 public:
  virtual ~Exchange() = default;

  // Sends rows x [n, dim] to the experts chosen for them, experts [n, top_k] of MoE layer `layer`,
  // whose results the gate gives weights [n, top_k]. All of it stays valid and unchanged until
  // Combine returns.
  virtual absl::Status Dispatch(int32_t layer, ConstRows x,
                                std::span<const scheduler::ExpertId> experts,
                                std::span<const float> weights, int32_t top_k) = 0;

  // Waits for every contribution of the last Dispatch: outputs [n * top_k, dim]. Where rows are
  // returned, row i * top_k + j is from the j-th expert of row i, rounded to the activation type,
  // and no weight was used. Where sums are, row i * top_k is the weighted sum for row i, and the
  // other rows are of no use. An error means that not every contribution arrived; nothing may be
  // committed.
  virtual absl::Status Combine(Rows outputs) = 0;
};

}  // namespace conclave::worker
