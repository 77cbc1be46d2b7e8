#include "worker/model/half.h"

#include <bit>

namespace conclave::worker {

uint16_t ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);   // not a number
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7C00);  // 65536 and up
  uint32_t half = 0, rest = 0, tie = 0;
  if (magnitude >= 0x38800000) {  // normal from 2^-14
    half = (magnitude - 0x38000000) >> 13;
    rest = magnitude & 0x1FFF;
    tie = 0x1000;
  } else {  // subnormal: units of 2^-24
    const uint32_t shift = 126 - (magnitude >> 23);
    if (shift > 24) return sign;
    const uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
    half = mantissa >> shift;
    rest = mantissa & ((1U << shift) - 1);
    tie = 1U << (shift - 1);
  }
  if (rest > tie || (rest == tie && (half & 1U))) ++half;  // may carry into the exponent: right
  return static_cast<uint16_t>(sign | half);
}

}  // namespace conclave::worker
