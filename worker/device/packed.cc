#include "worker/device/packed.h"

#include <algorithm>
#include <cstring>

#include "scheduler/check.h"

namespace conclave::worker {
namespace {

constexpr uint16_t kMagnitude = 0x7FFF;  // of BF16
constexpr int kExponent = 7;             // its place
constexpr int kGreatestInt = 127;
// E2M1 without its sign, in BF16.
constexpr uint16_t kFp4Values[] = {0, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0};

// 2^(scale - kScaleBias), and its inverse. A scale that is kept makes both normal.
float Power(int scale) { return std::bit_cast<float>(static_cast<uint32_t>(scale) << 23); }
float InversePower(int scale) { return Power(2 * kScaleBias - scale); }

uint16_t GreatestOf(const uint16_t* group) {
  uint16_t greatest = 0;
  for (int64_t i = 0; i < kGroup; ++i)
    greatest = std::max(greatest, static_cast<uint16_t>(group[i] & kMagnitude));
  return greatest;
}

// Of the greatest number's power of two, over 2^below.
int ScaleFor(uint16_t greatest, int below) {
  return std::max((greatest >> kExponent) - below, kLeastScale);
}

// To nearest even, |x| < 2^22.
int32_t Nearest(float x) {
  constexpr float kShift = 0x1.8p23f;
  return std::bit_cast<int32_t>(x + kShift) - std::bit_cast<int32_t>(kShift);
}

void PackInts(const uint16_t* group, int scale, uint8_t* to) {
  const float by = InversePower(scale);
  for (int64_t i = 0; i < kGroup; ++i) {
    const int32_t number = Nearest(FromBf16(group[i]) * by);
    to[i] = static_cast<uint8_t>(std::clamp(number, -kGreatestInt, kGreatestInt));
  }
}

// E2M1 numbers of a group and the sum of their squared errors, in units of the scale: by whole
// numbers of 2^-12, so that the sum, below 2^32, depends on no order.
struct Fp4Group {
  int32_t codes[kGroup];
  uint32_t error;
};
Fp4Group MakeFp4(const uint16_t* group, int scale) {
  const float by = InversePower(scale);
  Fp4Group made;
  uint32_t error = 0;
  for (int64_t i = 0; i < kGroup; ++i) {
    const float size = FromBf16(group[i] & kMagnitude) * by;
    // How many of the numbers between are behind it, 1 or 0 for each; halfway goes to the even
    // code.
    const auto at_least = [&](float border) { return static_cast<int32_t>(size >= border); };
    const auto above = [&](float border) { return static_cast<int32_t>(size > border); };
    const int32_t four = above(2.5f), six = above(5.0f), three = at_least(1.75f) + four;
    const int32_t code =
        above(0.25f) + at_least(0.75f) + above(1.25f) + three + at_least(3.5f) + six;
    // 0, 1, 2, 3, 4, 6, 8, 12 halves.
    const int32_t halves = code + four + at_least(3.5f) + 3 * six;
    const int32_t off = static_cast<int32_t>(size * 4096.0f) - halves * 2048;
    error += static_cast<uint32_t>(off * off);
    made.codes[i] = code | (code > 0 ? group[i] >> 12 & 8 : 0);
  }
  made.error = error;
  return made;
}

int PackFp4(const uint16_t* group, uint16_t greatest, uint8_t* to) {
  int scale = ScaleFor(greatest, 2);
  Fp4Group made = MakeFp4(group, scale);
  const Fp4Group wider = MakeFp4(group, scale + 1);
  // The wider one's units are twice as large.
  if (4 * uint64_t{wider.error} < made.error) {
    made = wider;
    ++scale;
  }
  for (int64_t i = 0; i < kGroup; i += 2)
    to[i / 2] = static_cast<uint8_t>(made.codes[i] | made.codes[i + 1] << 4);
  return scale;
}

}  // namespace

std::optional<DType> PackedTypeOf(std::string_view name) {
  for (const DType type : {DType::kMxInt8, DType::kMxFp4}) {
    if (name == NameOfPacked(type)) return type;
  }
  return std::nullopt;
}

const char* NameOfPacked(DType type) {
  CONCLAVE_CHECK(IsPacked(type));
  return type == DType::kMxInt8 ? "mxint8" : "mxfp4";
}

bool CanPack(int64_t rows, int64_t cols) {
  return rows % kBand == 0 && cols % kGroup == 0 && cols <= kMaxPackedCols;
}

std::optional<int64_t> PackNumbers(const uint16_t* numbers, const Weight& to) {
  CONCLAVE_CHECK(IsPacked(to.type) && CanPack(to.rows, to.cols));
  constexpr uint16_t kTooLarge = (kScaleBias + 104) << kExponent;
  static_assert((kTooLarge >> kExponent) - 1 - 2 + 1 <= kGreatestScale);  // of MXFP4, the wider
  auto* const all = static_cast<uint8_t*>(const_cast<void*>(to.data));
  auto* const scales = const_cast<uint8_t*>(to.scales);
  const int64_t group_bytes = kGroup * BitsOf(to.type) / 8;
  for (int64_t i = 0; i < to.rows * to.cols; i += kGroup) {
    const uint16_t* const group = numbers + i;
    const uint16_t greatest = GreatestOf(group);
    if (greatest >= kTooLarge) {
      const auto bad = [](uint16_t number) { return (number & kMagnitude) >= kTooLarge; };
      return std::find_if(group, group + kGroup, bad) - numbers;
    }
    const int64_t g = GroupOf(to.cols, i / to.cols, i % to.cols);
    uint8_t* const data = all + g * group_bytes;
    if (greatest == 0) {
      std::memset(data, 0, static_cast<size_t>(group_bytes));
      scales[g] = kScaleBias;
    } else if (to.type == DType::kMxInt8) {
      const int scale = ScaleFor(greatest, 6);
      PackInts(group, scale, data);
      scales[g] = static_cast<uint8_t>(scale);
    } else {
      scales[g] = static_cast<uint8_t>(PackFp4(group, greatest, data));
    }
  }
  return std::nullopt;
}

void UnpackNumbers(const Weight& packed, uint16_t* out) {
  CONCLAVE_CHECK(IsPacked(packed.type));
  for (int64_t i = 0; i < packed.rows * packed.cols; ++i) {
    const int64_t g = GroupOf(packed.cols, i / packed.cols, i % packed.cols);
    const auto* const data =
        static_cast<const uint8_t*>(packed.data) + g * kGroup * BitsOf(packed.type) / 8;
    const int64_t at = i % kGroup;
    float number = 0.0f;
    if (packed.type == DType::kMxInt8) {
      number = static_cast<float>(static_cast<int8_t>(data[at]));
    } else {
      const int code = data[at / 2] >> (at % 2 * 4) & 15;
      number = FromBf16(static_cast<uint16_t>(kFp4Values[code & 7] | (code & 8) << 12));
    }
    out[i] = ToBf16(number * Power(packed.scales[g]));
  }
}

}  // namespace conclave::worker
