#pragma once
// Weights in fewer bits: what config.json's quantization_config may say, and what the numbers
// mean. Packed experts (device/tensor.h) are, under each matrix's name, the tensors _blocks, [..,
// rows / kBand, cols / kGroup, kBand, bytes of a group], I8 or U8, and _scales, the same without
// the last, U8; for gpt-oss, which has gate and up in turn, [.., rows, cols / kGroup, bytes of a
// group] as it publishes MXFP4. FP8 is DeepSeek-V3's format (README_WEIGHTS.md of its authors):
// F8_E4M3 values, and for each block of them one factor (F32; others store BF16), kept beside the
// weight as "weight_scale_inv". Any thread.

#include <array>
#include <cstdint>
#include <optional>

#include "worker/device/tensor.h"
#include "worker/model/config.h"

namespace conclave::worker {

// Numbers of a weight that share a factor; the last block of a row or column may be cut short.
struct Fp8Blocks {
  int64_t rows = 0;
  int64_t cols = 0;
};

struct Quantization {
  std::optional<Fp8Blocks> fp8;  // matrices may be F8_E4M3
  std::optional<DType> packed;   // those of experts, and of shared ones, are
};

// quantization_config, or nothing if there is none. Refuses by name every method and scheme but
// these. Activations are not quantised: results are those of the dequantised weights.
Quantization ReadQuantization(Config& config, const ModelLimits& limits);

inline constexpr char kBlocksSuffix[] = "_blocks";
inline constexpr char kScalesSuffix[] = "_scales";
// The format's word for the type of blocks.
const char* StoredAs(DType packed);

// The value of every F8_E4M3 byte (OCP OFP8, "e4m3fn": no infinity, 0x7f and 0xff are NaN).
const std::array<float, 256>& Fp8Values();

}  // namespace conclave::worker
