#pragma once
// Numbers of one type as those of another. Any thread.

#include <cstdint>
#include <optional>

#include "worker/device/tensor.h"
#include "worker/model/converted_weights.h"

namespace conclave::worker {

// What numbers are, are rounded to (to nearest even), and are then stored as, which must hold those
// exactly: the same type, or fp32.
struct NumberTypes {
  DType from = DType::kF32;
  DType rounded = DType::kF32;
  DType stored = DType::kF32;
};

// to = the part's rows x cols numbers, in order. Returns the index, from the beginning of `from`,
// of the first that is not finite or becomes infinite; then what is stored means nothing.
std::optional<int64_t> ConvertNumbers(const char* from, const ConvertedWeights::Part& part,
                                      const NumberTypes& types, char* to);

}  // namespace conclave::worker
