#pragma once
// IEEE 754 binary16, F16, from and to fp32, one number at a time; the kernels have their own. Any
// thread.

#include <bit>
#include <cstdint>

namespace conclave::worker {

// Exact: the exponents differ by 112, and a subnormal fp32 times 2^112 is normal.
inline float FromF16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits} >> 15 << 31;
  const uint32_t magnitude = uint32_t{bits} << 17 >> 4;
  const float size = (bits & 0x7C00) == 0x7C00 ? std::bit_cast<float>(magnitude | 0x7F800000)
                                               : std::bit_cast<float>(magnitude) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign);
}
// To nearest even; too large is infinity, a NaN stays one.
uint16_t ToF16(float value);

}  // namespace conclave::worker
