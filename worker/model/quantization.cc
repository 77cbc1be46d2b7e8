#include "worker/model/quantization.h"

#include <cmath>
#include <limits>

#include "worker/device/packed.h"

namespace conclave::worker {

Quantization ReadQuantization(Config& config, const ModelLimits& limits) {
  if (!config.Has("quantization_config")) return {};
  Config settings = config.Object("quantization_config");
  settings.RequireOneOf("quant_method", "", {"fp8", "mxfp4", "mxint8"});
  const std::optional<DType> packed = PackedTypeOf(settings.StringOr("quant_method", ""));
  if (packed) {
    settings.IntOr("group_size", kGroup, {kGroup, kGroup});
    config.Take(settings);
    return {.packed = packed};
  }
  settings.RequireOneOf("fmt", "e4m3", {"e4m3"});
  settings.RequireOneOf("activation_scheme", "dynamic", {"dynamic"});
  settings.RequireOneOf("expert_dtype", "fp8", {"fp8"});
  const std::vector<int32_t> block = settings.IntsOr("weight_block_size", {1, limits.dim}, 2);
  if (block.size() != 2) settings.Refuse("weight_block_size is not two numbers, rows and columns");
  config.Take(settings);
  if (!config.status().ok()) return {};
  return {.fp8 = Fp8Blocks{.rows = block[0], .cols = block[1]}};
}

const char* StoredAs(DType packed) { return packed == DType::kMxInt8 ? "I8" : "U8"; }

const std::array<float, 256>& Fp8Values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> table = {};
    for (int byte = 0; byte < 256; ++byte) {
      const int exponent = byte >> 3 & 15;
      const int fraction = byte & 7;
      float value = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                  : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
      if ((byte & 0x7f) == 0x7f) value = std::numeric_limits<float>::quiet_NaN();
      table[static_cast<size_t>(byte)] = (byte & 0x80) != 0 ? -value : value;
    }
    return table;
  }();
  return values;
}

}  // namespace conclave::worker
