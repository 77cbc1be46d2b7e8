// Numbers of one type as those of another.

#include "worker/model/numbers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/half.h"

namespace conclave::worker {
namespace {

using Part = ConvertedWeights::Part;

// IEEE 754 binary16 to float, by its definition.
float FromHalf(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const auto mantissa = static_cast<float>(half & 1023);
  const float sign = half & 0x8000 ? -1.0F : 1.0F;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  if (exponent == 31) return mantissa == 0 ? sign * HUGE_VALF : NAN;
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(ToF16, EveryHalfComesBack) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const float value = FromHalf(static_cast<uint16_t>(half));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(FromF16(static_cast<uint16_t>(half))));
      continue;
    }
    ASSERT_EQ(FromF16(static_cast<uint16_t>(half)), value);
    ASSERT_EQ(ToF16(value), half);
  }
  EXPECT_TRUE(std::isnan(FromHalf(ToF16(NAN))));
}

TEST(ToF16, RoundsToTheNearestAndTiesToEven) {
  for (uint32_t half = 0; half < 0x7BFF; ++half) {
    const float low = FromHalf(static_cast<uint16_t>(half));
    const float high = FromHalf(static_cast<uint16_t>(half + 1));
    const float middle = (low + high) / 2;  // exact in float
    ASSERT_EQ(ToF16(middle), half % 2 == 0 ? half : half + 1);
    ASSERT_EQ(ToF16(std::nextafter(middle, low)), half);
    ASSERT_EQ(ToF16(std::nextafter(middle, high)), half + 1);
  }
  EXPECT_EQ(ToF16(65519.99F), 0x7BFF);
  EXPECT_EQ(ToF16(65520.0F), 0x7C00);
  EXPECT_EQ(ToF16(1e30F), 0x7C00);
  EXPECT_EQ(ToF16(-1e-30F), 0x8000);
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename Number>
std::vector<Number> Convert(const std::vector<float>& from, const Part& part,
                            const NumberTypes& types) {
  std::vector<Number> to(static_cast<size_t>(part.rows * part.cols));
  EXPECT_FALSE(ConvertNumbers(reinterpret_cast<const char*>(from.data()), part, types,
                              reinterpret_cast<char*>(to.data())));
  return to;
}

std::optional<int64_t> FirstBad(const std::vector<float>& from, const Part& part, DType rounded) {
  std::vector<float> to(static_cast<size_t>(part.rows * part.cols));
  return ConvertNumbers(reinterpret_cast<const char*>(from.data()), part, {.rounded = rounded},
                        reinterpret_cast<char*>(to.data()));
}

TEST(ConvertNumbers, TakesEveryOtherOneOfTransposedRows) {
  const std::vector<float> from = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};  // [3, 4]
  const Part odd_columns = {.rows = 2, .cols = 3, .first = 1, .row_step = 2, .column_step = 4};
  EXPECT_EQ(Convert<float>(from, odd_columns, {}), (std::vector<float>{1, 5, 9, 3, 7, 11}));
}

TEST(ConvertNumbers, RoundsToNearestEven) {
  const std::vector<float> from = {1.0f, 1.0f + 0x1p-8f, 1.0f + 0x1.8p-7f, -0.0f};
  const Part row = {.rows = 1, .cols = 4, .row_step = 4};
  EXPECT_EQ(Convert<uint16_t>(from, row, {.rounded = DType::kBF16, .stored = DType::kBF16}),
            (std::vector<uint16_t>{0x3F80, 0x3F80, 0x3F82, 0x8000}));
  EXPECT_EQ(Convert<float>(from, row, {.rounded = DType::kBF16}),
            (std::vector<float>{1.0f, 1.0f, 1.0f + 0x1p-6f, -0.0f}));
  EXPECT_EQ(Convert<uint16_t>({1.0f + 0x1p-11f, 0x1p-24f, 65504.0f, 0x1.8p-25f}, row,
                              {.rounded = DType::kF16, .stored = DType::kF16}),
            (std::vector<uint16_t>{0x3C00, 0x0001, 0x7BFF, 0x0001}));
}

TEST(ConvertNumbers, FindsTheFirstThatIsNotFinite) {
  const Part rows = {.rows = 2, .cols = 2, .row_step = 2};
  EXPECT_EQ(FirstBad({1, 2, NAN, kInfinity}, rows, DType::kF32), 2);
  EXPECT_EQ(FirstBad({1, 2, 3, -kInfinity}, rows, DType::kBF16), 3);
  EXPECT_EQ(FirstBad({1, 2, 3, 3e38f}, rows, DType::kF32), std::nullopt);
}

TEST(ConvertNumbers, FindsTheFirstThatTheTypeDoesNotHold) {
  const Part rows = {.rows = 2, .cols = 2, .row_step = 2};
  EXPECT_EQ(FirstBad({1, 65519.0f, 65520.0f, 1}, rows, DType::kF16), 2);
  EXPECT_EQ(FirstBad({1, 2, 3.4e38f, 1}, rows, DType::kBF16), 2);
  EXPECT_EQ(FirstBad({1, 2, 3.38e38f, 1}, rows, DType::kBF16), std::nullopt);
}

}  // namespace
}  // namespace conclave::worker
