#pragma once
// Weights in eight bits: what config.json's quantization_config may say, and what the numbers
// mean. DeepSeek-V3's format (README_WEIGHTS.md of its authors): F8_E4M3 values, and for each block
// of them one factor (F32; others store BF16), kept beside the weight as "weight_scale_inv". Any
// thread.

#include <array>
#include <cstdint>
#include <optional>

#include "worker/model/config.h"

namespace conclave::worker {

// Numbers of a weight that share a factor; the last block of a row or column may be cut short.
struct Fp8Blocks {
  int64_t rows = 0;
  int64_t cols = 0;
};

// quantization_config, or nothing if there is none. Refuses by name every method and scheme but
// this one. Activations are not quantised: results are those of the dequantised weights.
std::optional<Fp8Blocks> ReadQuantization(Config& config, const ModelLimits& limits);

// The value of every F8_E4M3 byte (OCP OFP8, "e4m3fn": no infinity, 0x7f and 0xff are NaN).
const std::array<float, 256>& Fp8Values();

}  // namespace conclave::worker
