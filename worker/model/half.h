#pragma once
// IEEE 754 binary16, F16, from and to fp32, one number at a time; the kernels have their own. Any
// thread.

#include <cstdint>

namespace conclave::worker {

// Exact.
float FromF16(uint16_t bits);
// To nearest even; too large is infinity, a NaN stays one.
uint16_t ToF16(float value);

}  // namespace conclave::worker
