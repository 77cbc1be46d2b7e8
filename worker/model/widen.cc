#include "worker/model/widen.h"

#include <cstdint>
#include <cstring>

#include "worker/device/packed.h"
#include "worker/model/half.h"

namespace conclave::worker {

std::vector<float> Widen(const Weight& weight) {
  const auto count = static_cast<size_t>(weight.rows * weight.cols);
  std::vector<float> values(count);
  if (weight.type == DType::kF32) {
    std::memcpy(values.data(), weight.data, count * sizeof(float));  // may lie unaligned
    return values;
  }
  if (IsPacked(weight.type)) {
    std::vector<uint16_t> numbers(count);
    UnpackNumbers(weight, numbers.data());
    for (size_t i = 0; i < count; ++i) values[i] = FromBf16(numbers[i]);
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
