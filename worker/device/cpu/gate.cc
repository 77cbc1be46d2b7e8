// The gate: score, shift, select, weigh. A few hundred slots a row: plain loops in fp32, in one
// order.

#include <algorithm>
#include <limits>

#include "scheduler/check.h"
#include "worker/device/cpu/cpu_device.h"

namespace conclave::worker {
namespace {

// The greatest of `values` that is not `taken`, the first of equals; the first free one if all are
// NaN.
int32_t Best(const float* values, const bool* taken, int32_t count) {
  int32_t best = -1;
  for (int32_t i = 0; i < count; ++i) {
    if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
  }
  return best;
}

// What a group is chosen by: its best score, or the sum of its best two.
float GroupScore(GateShape::Select select, const float* scores, int32_t size) {
  float first = -std::numeric_limits<float>::infinity();
  float second = first;
  for (int32_t i = 0; i < size; ++i) {
    if (scores[i] > first) {
      second = first;
      first = scores[i];
    } else if (scores[i] > second) {
      second = scores[i];
    }
  }
  return select == GateShape::Select::kGroupMax ? first : first + second;
}

// Marks the slots of the groups that are not among the best shape.top_groups.
void ExcludeGroups(const GateShape& shape, const float* scores, bool* taken) {
  const int32_t size = shape.slots / shape.groups;
  float group_scores[kMaxGateSlots];
  bool chosen[kMaxGateSlots] = {};
  for (int32_t g = 0; g < shape.groups; ++g) {
    group_scores[g] = GroupScore(shape.select, scores + g * size, size);
  }
  for (int32_t i = 0; i < shape.top_groups; ++i) {
    chosen[Best(group_scores, chosen, shape.groups)] = true;
  }
  for (int32_t s = 0; s < shape.slots; ++s) taken[s] = !chosen[s / size];
}

void Select(const GateShape& shape, const float* scores, int32_t* slots) {
  bool taken[kMaxGateSlots] = {};
  if (shape.select != GateShape::Select::kTopK) ExcludeGroups(shape, scores, taken);
  for (int32_t j = 0; j < shape.top_k; ++j) {
    slots[j] = Best(scores, taken, shape.slots);
    taken[slots[j]] = true;
  }
}

void Weigh(const GateShape& shape, float* weights) {
  float sum = 0.0f;
  for (int32_t j = 0; j < shape.top_k; ++j) sum += weights[j];
  for (int32_t j = 0; j < shape.top_k; ++j) {
    if (shape.normalise) weights[j] /= sum + 1e-20f;
    weights[j] *= shape.scale;
  }
}

}  // namespace

// out may be x.
void CpuDevice::Softmax(const float* x, int64_t n, float* out) const {
  bool finite = true;
  const float max = kernels_.max(x, n, &finite);
  const float sum = kernels_.exp(x, n, max, 1.0f, out);
  kernels_.divide(out, sum, n, out);
}

void CpuDevice::Gate(ConstRows logits, const GateShape& shape, const float* bias,
                     std::span<int32_t> slots, std::span<float> weights) {
  const bool grouped = shape.select != GateShape::Select::kTopK;
  CONCLAVE_CHECK(shape.slots >= 1 && shape.slots <= kMaxGateSlots && logits.cols == shape.slots);
  CONCLAVE_CHECK(shape.groups >= 1);
  CONCLAVE_CHECK(shape.slots % shape.groups == 0 && shape.top_groups <= shape.groups);
  CONCLAVE_CHECK(shape.top_k >= 1 &&
                 shape.top_k <=
                     (grouped ? shape.slots / shape.groups * shape.top_groups : shape.slots));
  CONCLAVE_CHECK(static_cast<int64_t>(slots.size()) == logits.rows * shape.top_k);
  CONCLAVE_CHECK(weights.size() == slots.size());

  ForRows(logits.rows, int64_t{shape.slots} * (shape.top_k + 8), [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      float scores[kMaxGateSlots];
      switch (shape.score) {
        case GateShape::Score::kSoftmax:
          Softmax(logits.row(r), shape.slots, scores);
          break;
        case GateShape::Score::kSigmoid:
          kernels_.sigmoid(logits.row(r), shape.slots, scores);
          break;
        case GateShape::Score::kLogit:
          std::copy_n(logits.row(r), shape.slots, scores);
          break;
      }
      float shifted[kMaxGateSlots];
      if (bias != nullptr) {
        for (int32_t s = 0; s < shape.slots; ++s) shifted[s] = scores[s] + bias[s];
      }
      int32_t* chosen = slots.data() + r * shape.top_k;
      Select(shape, bias != nullptr ? shifted : scores, chosen);
      float* chosen_weights = weights.data() + r * shape.top_k;
      for (int32_t j = 0; j < shape.top_k; ++j) chosen_weights[j] = scores[chosen[j]];
      if (shape.score == GateShape::Score::kLogit)
        Softmax(chosen_weights, shape.top_k, chosen_weights);
      Weigh(shape, chosen_weights);
    }
  });
}

}  // namespace conclave::worker
