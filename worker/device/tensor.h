#pragma once
// Views of numbers in memory: activations (float rows) and weights (mapped, in the checkpoint's
// type). Views own nothing.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace conclave::worker {

enum class DType : uint8_t { kF32, kBF16, kF16 };

constexpr size_t SizeOf(DType type) { return type == DType::kF32 ? 4 : 2; }

// To nearest even; a NaN stays one.
constexpr uint16_t ToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  return static_cast<uint16_t>(nan ? (bits >> 16) | 0x40 : rounded >> 16);
}
constexpr float FromBf16(uint16_t value) { return std::bit_cast<float>(uint32_t{value} << 16); }

// A weight matrix [rows, cols], row-major, without padding. A vector is one row. Not necessarily
// aligned.
struct Weight {
  const void* data = nullptr;
  DType type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  explicit operator bool() const { return data != nullptr; }
  // Rows [first, first + count) of it.
  Weight Slice(int64_t first, int64_t count) const {
    return {static_cast<const char*>(data) + static_cast<size_t>(first * cols) * SizeOf(type), type,
            count, cols};
  }
};

// Activations [rows, cols] in fp32; row r starts at data + r * stride.
template <typename T>
struct BasicRows {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  T* row(int64_t r) const { return data + r * stride; }
  BasicRows Top(int64_t count) const { return {data, count, cols, stride}; }
  BasicRows Columns(int64_t first, int64_t count) const {
    return {data + first, rows, count, stride};
  }
  operator BasicRows<const T>() const requires(!std::is_const_v<T>) {
    return {data, rows, cols, stride};
  }
};
using Rows = BasicRows<float>;
using ConstRows = BasicRows<const float>;

}  // namespace conclave::worker
