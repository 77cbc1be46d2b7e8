#include "worker/experts/partial_sum.h"

#include <algorithm>

#include "scheduler/check.h"

namespace conclave::worker {

void PartialSum(std::span<const float* const> rows, std::span<const float> weights, size_t dim,
                DType type, float* out) {
  CONCLAVE_CHECK(rows.size() == weights.size());
  constexpr size_t kStrip = 64;  // columns summed at a time, in registers
  for (size_t first = 0; first < dim; first += kStrip) {
    const size_t count = std::min(kStrip, dim - first);
    float sum[kStrip] = {};
    for (size_t i = 0; i < rows.size(); ++i) {
      const float weight = weights[i];
      const float* row = rows[i] + first;
      for (size_t c = 0; c < count; ++c) sum[c] += weight * row[c];
    }
    if (type == DType::kBF16) {
      for (size_t c = 0; c < count; ++c) sum[c] = FromBf16(ToBf16(sum[c]));
    }
    std::copy_n(sum, count, out + first);
  }
}

}  // namespace conclave::worker
