#pragma once
// Numbers into packed form and back, outside of a step. Any thread.
//
// How they are packed is a function of the numbers alone, the same on every machine. MXINT8: a
// group's power of two is that of its greatest number, over 64, so that this one takes all eight
// bits; MXFP4: OCP's, over 4, or twice that where the sum of squared errors is then less. To
// nearest even, and no further than the form's greatest number. A group of zeros has 2^0.

#include <cstdint>
#include <optional>
#include <string_view>

#include "worker/device/tensor.h"

namespace conclave::worker {

// "mxint8" and "mxfp4"; nothing for any other name.
std::optional<DType> PackedTypeOf(std::string_view name);
const char* NameOfPacked(DType type);

// Whether a matrix can be packed: rows of whole groups, whole bands of them, not too wide.
bool CanPack(int64_t rows, int64_t cols);

// Writes `to`, data and scales, from as many BF16 numbers, row by row. Returns the index of the
// first that is not finite, or of 2^104 or more; then what is written means nothing.
std::optional<int64_t> PackNumbers(const uint16_t* numbers, const Weight& to);

// out = the numbers as BF16, which they are exactly, row by row.
void UnpackNumbers(const Weight& packed, uint16_t* out);

}  // namespace conclave::worker
