#include "worker/model/widen.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace conclave::worker {
namespace {

float FromF16(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const auto fraction = static_cast<float>(bits & 1023);
  const float size = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                     : exponent == 0 ? std::ldexp(fraction, -24)
                                     : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 != 0 ? -size : size;
}

}  // namespace

std::vector<float> Widen(const Weight& weight) {
  const auto count = static_cast<size_t>(weight.rows * weight.cols);
  std::vector<float> values(count);
  if (weight.type == DType::kF32) {
    std::memcpy(values.data(), weight.data, count * sizeof(float));  // may lie unaligned
    return values;
  }
  for (size_t i = 0; i < count; ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, static_cast<const char*>(weight.data) + 2 * i, sizeof(bits));
    values[i] = weight.type == DType::kBF16 ? FromBf16(bits) : FromF16(bits);
  }
  return values;
}

}  // namespace conclave::worker
