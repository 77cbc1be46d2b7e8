#pragma once
// Views of numbers in memory: activations (float rows) and weights (mapped, in the checkpoint's
// type). Views own nothing.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace conclave::worker {

// The last two are packed, the OCP's microscaling formats MXINT8 and MXFP4: kGroup numbers of a row
// share a power of two, of which each is a multiple by an 8-bit integer, or by a number of E2M1. So
// each is a BF16 number exactly, and what is computed with them is what is computed with those.
enum class DType : uint8_t { kF32, kBF16, kF16, kMxInt8, kMxFp4 };

constexpr bool IsPacked(DType type) { return type >= DType::kMxInt8; }
inline constexpr int64_t kGroup = 32;
inline constexpr int64_t kBand = 16;                // rows whose groups take turns
inline constexpr int64_t kMaxPackedCols = 1 << 15;  // what kernels have room to unpack

// Of a number; of a packed one without its share of the power of two.
constexpr int64_t BitsOf(DType type) {
  constexpr int64_t kBits[] = {32, 16, 16, 8, 4};
  return kBits[static_cast<size_t>(type)];
}
// In bytes, of types that are not packed.
constexpr size_t SizeOf(DType type) { return static_cast<size_t>(BitsOf(type) / 8); }

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
//
// Packed ones are [rows / kBand, cols / kGroup, kBand] groups, so that a product that takes a band
// of rows a few columns at a time reads memory from its beginning to its end; scales likewise. A
// power of two 2^e is kept as e + kScaleBias; of two numbers in a byte the first is in its low
// bits.
struct Weight {
  const void* data = nullptr;
  DType type = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const uint8_t* scales = nullptr;  // of packed ones

  explicit operator bool() const { return data != nullptr; }
  size_t bytes() const { return static_cast<size_t>(rows * cols * BitsOf(type) / 8); }
  size_t scale_bytes() const {
    return IsPacked(type) ? static_cast<size_t>(rows * cols / kGroup) : 0;
  }
  // Rows [first, first + count) of it; of packed ones whole bands.
  Weight Slice(int64_t first, int64_t count) const {
    return {static_cast<const char*>(data) + first * cols * BitsOf(type) / 8, type, count, cols,
            IsPacked(type) ? scales + first * cols / kGroup : nullptr};
  }
};

// Of a packed matrix of so many columns: which group has column c of row r.
constexpr int64_t GroupOf(int64_t cols, int64_t r, int64_t c) {
  return (r / kBand * (cols / kGroup) + c / kGroup) * kBand + r % kBand;
}

inline constexpr int kScaleBias = 127;
// Kept powers of two lie within these; then every number but zero is a normal one, and the kernels
// have room to make it.
inline constexpr int kLeastScale = 2;
inline constexpr int kGreatestScale = 230;

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
