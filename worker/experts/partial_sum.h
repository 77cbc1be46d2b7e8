#pragma once
// The sum that stands for several experts' rows where sums are returned (frame.h, Returns). Owners
// and homes take it by this one function, so whoever has the rows has the sum's bits. Any thread.
//
// Sums travel in the activation type. OLMoE's shape (top 8, 2048 wide, BF16) brings home for each
// token and layer, by conclave-parallel-bench --returns: over 2 workers 15.9 KB of rows or 4.1 KB
// of sums, over 4 workers 24.2 or 11.3; in fp32 sums would be twice that, next to no gain over 4.
// What the rounding costs, 2e-3 in log-probabilities in the mean over all families' BF16
// checkpoints at worst, is less than what separates those from their authors' code.

#include <cstddef>
#include <span>

#include "worker/device/tensor.h"

namespace conclave::worker {

// out [dim] = weights[i] * rows[i] [dim], added in fp32 for ascending i, then rounded to `type` as
// a row on the wire is. out may be one of the rows.
void PartialSum(std::span<const float* const> rows, std::span<const float> weights, size_t dim,
                DType type, float* out);

}  // namespace conclave::worker
