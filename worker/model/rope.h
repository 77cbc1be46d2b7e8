#pragma once
// Rotary tables: which angle a pair of columns turns by at a position. Made at load in double, by
// additions, multiplications, divisions and square roots only, so that every CPU makes the same
// bits; libm's functions differ between CPUs in the last place. Any thread.

#include <cstdint>

#include "worker/device/device.h"
#include "worker/model/config.h"

namespace conclave::worker {

// YaRN (arXiv:2309.00071) as DeepSeek's authors publish it (modeling_deepseek.py): fast pairs keep
// their angle, slow ones are slowed by `factor`, with a ramp between; cos and sin are scaled.
struct Yarn {
  double factor = 1.0;
  double original_context = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
};

struct RopeSettings {
  double theta = 10000.0;
  bool yarn = false;
  Yarn scaling;
};

// rope_parameters (transformers 5) or rope_theta and rope_scaling (before), refusing types and keys
// we do not compute.
RopeSettings ReadRope(Config& config, bool yarn_supported);

// [positions, dim / 2]; dim even, positions at most ModelLimits::context.
RopeTable MakeRopeTable(const RopeSettings& settings, int32_t dim, bool interleaved,
                        int64_t positions);

// What YaRN multiplies attention's scale with; 1 without it.
double AttentionScaleFactor(const RopeSettings& settings);

}  // namespace conclave::worker
