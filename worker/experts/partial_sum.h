#pragma once
// The sum that stands for several experts' rows where sums are returned (frame.h, Returns). Owners
// and homes take it by this one function, so whoever has the rows has the sum's bits. Any thread.

#include <cstddef>
#include <span>

#include "worker/device/tensor.h"

namespace conclave::worker {

// out [dim] = weights[i] * rows[i] [dim], added in fp32 for ascending i, then rounded to `type` as
// a row on the wire is. out may be one of the rows.
void PartialSum(std::span<const float* const> rows, std::span<const float> weights, size_t dim,
                DType type, float* out);

}  // namespace conclave::worker
