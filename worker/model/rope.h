#pragma once
// Rotary tables: which angle a pair of columns turns by at a position. Made at load in double, by
// additions, multiplications, divisions and square roots only, so that every CPU makes the same
// bits; libm's functions differ between CPUs in the last place. Any thread.

#include <cstdint>
#include <optional>

#include "worker/device/device.h"
#include "worker/model/config.h"

namespace conclave::worker {

// What YaRN (arXiv:2309.00071) says beside its factor: pairs that turn often within the original
// context keep their angle, those that turn seldom are slowed by the factor, with a ramp between;
// cos and sin are scaled.
struct Yarn {
  double beta_fast = 32;  // turns within the original context, from which a pair keeps its angle
  double beta_slow = 1;   // and up to which it is slowed
  bool truncate = true;   // the ramp begins and ends at whole pairs
  // cos and sin are scaled by attention_factor, or without one by a logarithm of the factor each:
  // mscale's over mscale_all_dim's (DeepSeek's modeling_deepseek.py).
  std::optional<double> attention_factor;
  double mscale = 1;
  double mscale_all_dim = 0;  // and, under any scaling, of the scale of DeepSeek's attention
};

struct RopeSettings {
  // kLinear slows all pairs by the factor; kLlama3 (Llama 3.1) those whose wave is longer than
  // original_context / low_freq_factor, leaves those shorter than original_context /
  // high_freq_factor, and blends between.
  enum class Scaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

  double theta = 10000.0;
  double partial = 1.0;  // share of a head's columns that turn
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;             // of all scalings
  double original_context = 4096;  // kLlama3, kYarn: positions
  double low_freq_factor = 1.0;    // kLlama3
  double high_freq_factor = 4.0;   // kLlama3
  Yarn yarn;
};

// What families read differently.
struct RopeDialect {
  double theta = 10000.0;  // unless the settings say one
  // Unless the settings say one; families without a default know no partial rotation.
  std::optional<double> partial;
  // DeepSeek: mscale and mscale_all_dim default to 1 and 0 one by one, the latter counts under any
  // scaling, and YaRN is made for 4096 positions unless it says. Otherwise both of them count or
  // none, and YaRN is made for max_position_embeddings.
  bool deepseek = false;
};

// rope_parameters (transformers 5) or rope_theta and rope_scaling (before), refusing types and keys
// we do not compute. `dynamic` and `longrope` are among them: they turn old positions anew as a
// sequence grows, so its cache would not stay true.
RopeSettings ReadRope(Config& config, const RopeDialect& dialect);

// How many positions settings that are made for `context` of them reach: what linear scaling and
// YaRN stretch it to, at least `context`.
double StretchedContext(const RopeSettings& settings, double context);

// [positions, dim / 2]; positions at most ModelLimits::context. An odd dim turns a column more, as
// transformers' GLM does: the frequencies are those of dim, and their number is rounded up.
RopeTable MakeRopeTable(const RopeSettings& settings, int32_t dim, bool interleaved,
                        int64_t positions);

// What mscale_all_dim multiplies the scale of DeepSeek's attention with; 1 without it.
double AttentionScaleFactor(const RopeSettings& settings);

}  // namespace conclave::worker
