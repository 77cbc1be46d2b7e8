#include "worker/model/numbers.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "scheduler/check.h"
#include "worker/model/half.h"

namespace conclave::worker {
namespace {

// `count` numbers from number `first`, every step-th of them.
struct Row {
  const char* numbers = nullptr;
  int64_t first = 0;
  int64_t step = 1;
  int64_t count = 0;

  template <typename Bits>
  Bits At(int64_t i) const {
    Bits bits;  // may lie unaligned
    std::memcpy(&bits, numbers + static_cast<size_t>(first + i * step) * sizeof(bits),
                sizeof(bits));
    return bits;
  }
};

void Widen(const Row& row, DType type, float* to) {
  switch (type) {
    case DType::kF32:
      for (int64_t i = 0; i < row.count; ++i) to[i] = row.At<float>(i);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < row.count; ++i) to[i] = FromBf16(row.At<uint16_t>(i));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < row.count; ++i) to[i] = FromF16(row.At<uint16_t>(i));
      return;
    case DType::kMxInt8:
    case DType::kMxFp4:
      break;
  }
  CONCLAVE_CHECK(false);  // no single number can be told
}

void Narrow(const float* from, int64_t count, DType type, char* to) {
  if (type == DType::kF32) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = type == DType::kBF16 ? ToBf16(from[i]) : ToF16(from[i]);
    std::memcpy(to + 2 * i, &bits, sizeof(bits));
  }
}

// Of a row that is stored as it is.
template <typename Bits>
std::optional<int64_t> CopyFinite(const Row& row, Bits exponent, char* to) {
  bool finite = true;
  for (int64_t i = 0; i < row.count; ++i) {
    const Bits bits = row.At<Bits>(i);
    finite &= (bits & exponent) != exponent;
    std::memcpy(to + static_cast<size_t>(i) * sizeof(bits), &bits, sizeof(bits));
  }
  for (int64_t i = 0; !finite && i < row.count; ++i) {
    if ((row.At<Bits>(i) & exponent) == exponent) return row.first + i * row.step;
  }
  return std::nullopt;
}

std::optional<int64_t> CopyFinite(const Row& row, DType type, char* to) {
  switch (type) {
    case DType::kF32:
      return CopyFinite<uint32_t>(row, 0x7F800000, to);
    case DType::kBF16:
      return CopyFinite<uint16_t>(row, 0x7F80, to);
    case DType::kF16:
      return CopyFinite<uint16_t>(row, 0x7C00, to);
    case DType::kMxInt8:
    case DType::kMxFp4:
      break;
  }
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> ConvertNumbers(const char* from, const ConvertedWeights::Part& part,
                                      const NumberTypes& types, char* to) {
  CONCLAVE_CHECK(types.stored == types.rounded || types.stored == DType::kF32);
  const bool as_is = types.from == types.rounded && types.rounded == types.stored;
  std::vector<float> numbers(static_cast<size_t>(part.cols));
  std::vector<char> rounded(numbers.size() * SizeOf(types.rounded));
  for (int64_t r = 0; r < part.rows; ++r) {
    const Row row = {from, part.first + r * part.row_step, part.column_step, part.cols};
    char* const out = to + static_cast<size_t>(r * part.cols) * SizeOf(types.stored);
    if (as_is) {
      if (const auto bad = CopyFinite(row, types.stored, out)) return bad;
      continue;
    }
    Widen(row, types.from, numbers.data());
    Narrow(numbers.data(), row.count, types.rounded, rounded.data());
    const Row narrow = {.numbers = rounded.data(), .count = row.count};
    Widen(narrow, types.rounded, numbers.data());
    for (int64_t i = 0; i < row.count; ++i) {
      if (!std::isfinite(numbers[static_cast<size_t>(i)])) return row.first + i * row.step;
    }
    Narrow(numbers.data(), row.count, types.stored, out);
  }
  return std::nullopt;
}

}  // namespace conclave::worker
