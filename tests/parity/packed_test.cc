// Packed weights: what they mean, written the slow way; and that experts of them are, bit for bit,
// those of the same numbers in BF16.

#include "worker/device/packed.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

// BF16 numbers [rows, cols] packed, `shift` bytes off any alignment, and what they are then.
class PackedMatrix {
 public:
  PackedMatrix(const std::vector<float>& numbers, int64_t rows, int64_t cols, DType type,
               size_t shift = 3)
      : rows_(rows), cols_(cols) {
    std::vector<uint16_t> bf16;
    for (const float number : numbers) bf16.push_back(ToBf16(number));
    Weight weight = {nullptr, type, rows, cols};
    data_.resize(weight.bytes() + shift);
    scales_.resize(weight.scale_bytes() + shift);
    weight.data = data_.data() + shift;
    weight.scales = scales_.data() + shift;
    packed_ = weight;
    bad_ = PackNumbers(bf16.data(), packed_);
    if (!bad_) Unpack();
  }
  PackedMatrix(int64_t rows, int64_t cols, DType type, uint64_t seed)
      : PackedMatrix(Random(rows, cols, seed), rows, cols, type) {}
  PackedMatrix(const PackedMatrix&) = delete;

  std::optional<int64_t> bad() const { return bad_; }
  const Weight& packed() const { return packed_; }
  Weight unpacked() const { return {bf16_.data(), DType::kBF16, rows_, cols_}; }
  float at(int64_t index) const { return FromBf16(bf16_[static_cast<size_t>(index)]); }
  // Of the group that number `index` is in, both counting row by row.
  int scale(int64_t index) const { return packed_.scales[GroupAt(index)] - kScaleBias; }

 private:
  // Sizes differ from group to group; some groups are zeros, and one number is the least BF16.
  static std::vector<float> Random(int64_t rows, int64_t cols, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> numbers;
    float spread = 0.0f;
    for (int64_t i = 0; i < rows * cols; ++i) {
      if (i % kGroup == 0)
        spread = random() % 7 == 0 ? 0.0f : std::ldexp(0.3f, static_cast<int>(random() % 8) - 5);
      numbers.push_back(normal(random) * spread);
    }
    numbers.back() = 0x1p-133f;
    return numbers;
  }
  // Bands of 16 rows; in each, 32 columns of every row after 32 of the row before.
  int64_t GroupAt(int64_t index) const {
    const int64_t row = index / cols_, column = index % cols_;
    return row / 16 * (cols_ / 32 * 16) + column / 32 * 16 + row % 16;
  }
  // By the definition of the formats.
  void Unpack() {
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      const auto* data =
          static_cast<const uint8_t*>(packed_.data) + GroupAt(i) * 32 * BitsOf(packed_.type) / 8;
      const int64_t at = i % 32;
      double number = 0.0;
      if (packed_.type == DType::kMxInt8) {
        number = static_cast<double>(static_cast<int8_t>(data[at]));
      } else {
        constexpr double kValues[] = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};
        const int code = at % 2 == 0 ? data[at / 2] & 15 : data[at / 2] >> 4;
        number = code >= 8 ? -kValues[code - 8] : kValues[code];
      }
      const double exact = std::ldexp(number, scale(i));
      bf16_.push_back(ToBf16(static_cast<float>(exact)));
      EXPECT_EQ(static_cast<double>(FromBf16(bf16_.back())), exact) << "it is no BF16 number";
    }
  }

  int64_t rows_, cols_;
  std::vector<uint8_t> data_, scales_;
  std::vector<uint16_t> bf16_;
  Weight packed_;
  std::optional<int64_t> bad_;
};

constexpr DType kForms[] = {DType::kMxInt8, DType::kMxFp4};

// A band of one group each, of which the first begins like this; else zeros.
std::vector<float> Band(std::vector<float> first) {
  first.resize(kBand * kGroup, 0.0f);
  return first;
}

TEST(PackedNumbers, AreTheNearestOfTheirGroup) {
  for (const DType type : kForms) {
    const int64_t rows = 2 * kBand, cols = 3 * kGroup;
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> numbers;
    for (int64_t i = 0; i < rows * cols; ++i)
      numbers.push_back(FromBf16(ToBf16(normal(random) * 0.02f)));
    const PackedMatrix packed(numbers, rows, cols, type);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const double unit = std::ldexp(1.0, packed.scale(i));
      const double size = std::fabs(static_cast<double>(numbers[static_cast<size_t>(i)])) / unit;
      // MXFP4's steps are half a unit up to 2, then one, then two, and its end is at 6.
      const double step = type == DType::kMxInt8 ? 1.0 : size < 2.0 ? 0.5 : size < 4.0 ? 1.0 : 2.0;
      const double most = type == DType::kMxFp4 && size > 6.0 ? size - 6.0 : step / 2;
      EXPECT_LE(std::fabs(static_cast<double>(packed.at(i) - numbers[static_cast<size_t>(i)])),
                most * unit)
          << i;
    }
  }
}

TEST(PackedNumbers, OfEightBitsTakeAllOfThemInTheGreatest) {
  const PackedMatrix one(Band({1.0f, -0.984375f, 0.0078125f, 0.00390625f}), kBand, kGroup,
                         DType::kMxInt8);
  EXPECT_EQ(one.scale(0), -6);  // 1.0 is 64 units
  EXPECT_EQ(one.at(0), 1.0f);
  EXPECT_EQ(one.at(1), -0.984375f);
  EXPECT_EQ(one.at(2), 0.0f) << "half a unit goes to the even one";
  // 127.5 units are 127, the most there are, and not 64 of twice the size.
  const PackedMatrix most(Band({1.9921875f, -1.9921875f, 1.984375f}), kBand, kGroup,
                          DType::kMxInt8);
  EXPECT_EQ(most.scale(0), -6);
  EXPECT_EQ(most.at(0), 1.984375f);
  EXPECT_EQ(most.at(1), -1.984375f);
  EXPECT_EQ(most.at(2), 1.984375f);
}

TEST(PackedNumbers, OfFourBitsRoundToTheEvenCode) {
  const PackedMatrix packed(Band({6.0f, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, -0.25f,
                                  -0.75f, -5.0f, 0.26f, 4.9f}),
                            kBand, kGroup, DType::kMxFp4);
  EXPECT_EQ(packed.scale(0), 0);
  const float expected[] = {6.0f, 0.0f, 1.0f,  1.0f,  2.0f, 2.0f, 4.0f,
                            4.0f, 0.0f, -1.0f, -4.0f, 0.5f, 4.0f};
  for (size_t i = 0; i < std::size(expected); ++i)
    EXPECT_EQ(packed.at(static_cast<int64_t>(i)), expected[i]) << i;
  EXPECT_FALSE(std::signbit(packed.at(8))) << "what becomes zero has no sign";
}

TEST(PackedNumbers, OfFourBitsHaveTheScaleThatLosesLess) {
  // Over 4 it would be 6 for 7.5; over 8 it is 8, and nothing else is there to lose by it.
  const PackedMatrix alone(Band({7.5f}), kBand, kGroup, DType::kMxFp4);
  EXPECT_EQ(alone.scale(0), 1);
  EXPECT_EQ(alone.at(0), 8.0f);
  // Here the many small ones count for more.
  std::vector<float> numbers(kGroup, 0.5f);
  numbers[0] = 6.5f;
  const PackedMatrix among(Band(numbers), kBand, kGroup, DType::kMxFp4);
  EXPECT_EQ(among.scale(0), 0);
  EXPECT_EQ(among.at(0), 6.0f);
  EXPECT_EQ(among.at(1), 0.5f);
}

TEST(PackedNumbers, PackedAnewAreTheSame) {
  for (const DType type : kForms) {
    const PackedMatrix once(kBand, 4 * kGroup, type, 3);
    std::vector<float> numbers;
    for (int64_t i = 0; i < kBand * 4 * kGroup; ++i) numbers.push_back(once.at(i));
    const PackedMatrix twice(numbers, kBand, 4 * kGroup, type);
    for (int64_t i = 0; i < kBand * 4 * kGroup; ++i) ASSERT_EQ(once.at(i), twice.at(i)) << i;
  }
}

TEST(PackedNumbers, ReachFromZeroToTheLimit) {
  for (const DType type : kForms) {
    std::vector<float> numbers(kBand * kGroup, 0.0f);
    numbers[kGroup] = 0x1p-133f;             // the least there is
    numbers[2 * kGroup] = FromBf16(0x737F);  // the last below 2^104
    numbers[2 * kGroup + 1] = -0x1p103f;
    const PackedMatrix packed(numbers, kBand, kGroup, type);
    ASSERT_FALSE(packed.bad());
    EXPECT_EQ(packed.scale(0), 0) << "of zeros";
    EXPECT_EQ(packed.at(kGroup), 0.0f) << "far below the least unit";
    EXPECT_GE(packed.scale(kGroup) + kScaleBias, kLeastScale);
    EXPECT_LE(packed.scale(2 * kGroup) + kScaleBias, kGreatestScale);
    EXPECT_EQ(packed.at(2 * kGroup + 1), -0x1p103f);
  }
}

TEST(PackedNumbers, AreNeitherTooLargeNorNotFinite) {
  for (const DType type : kForms) {
    for (const float bad : {NAN, -NAN, INFINITY, -INFINITY, 0x1p104f, -0x1p127f}) {
      std::vector<float> numbers(kBand * kGroup, 1.0f);
      numbers[70] = bad;
      EXPECT_EQ(PackedMatrix(numbers, kBand, kGroup, type).bad(), 70) << bad;
    }
  }
}

TEST(PackedNumbers, AreUnpackedAsTheFormatsSay) {
  for (const DType type : kForms) {
    const PackedMatrix packed(3 * kBand, 5 * kGroup, type, 5);
    std::vector<uint16_t> out(3 * kBand * 5 * kGroup);
    UnpackNumbers(packed.packed(), out.data());
    EXPECT_EQ(std::memcmp(out.data(), packed.unpacked().data, out.size() * 2), 0);
  }
}

class PackedMatMul : public testing::TestWithParam<LevelCase> {};

TEST_P(PackedMatMul, IsThatOfTheSameNumbersInAnyBatch) {
  struct Shape {
    int64_t rows, cols;
  };
  for (const DType type : kForms) {
    for (const auto [n, k] : {Shape{16, 32}, {48, 96}, {80, 1056}, {272, 160}}) {
      const PackedMatrix weight(n, k, type, 1);
      const PackedMatrix bias(kBand, kGroup * ((n + kGroup - 1) / kGroup), type, 2);
      const Weight added = {bias.unpacked().data, DType::kBF16, 1, n};
      for (const int64_t m : {1, 2, 5, 66, 300}) {
        const Batch x(m, k, 3, 1.0);
        for (const int threads : {1, 2}) {
          const std::unique_ptr<Device> device = MakeDevice(GetParam(), threads);
          for (const Inputs inputs : {Inputs::kActivationType, Inputs::kFloat}) {
            const auto run = [&](Weight one, bool with_bias) {
              Batch out(m, n);
              device->MatMul(x.rows(), one, with_bias ? added : Weight{}, inputs, out.rows());
              return out;
            };
            for (const bool with_bias : {false, true}) {
              EXPECT_TRUE(
                  SameBits(run(weight.unpacked(), with_bias), run(weight.packed(), with_bias)))
                  << m << "x" << n << "x" << k << ", " << threads << " threads";
            }
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, PackedMatMul, testing::ValuesIn(AllCases()), CaseName);

class PackedExperts : public testing::TestWithParam<LevelCase> {};

// Every code with every scale there may be.
TEST_P(PackedExperts, AreThoseOfTheSameNumbersForEveryCodeAndScale) {
  const std::unique_ptr<Device> device = MakeDevice(GetParam());
  for (const DType type : kForms) {
    const int64_t codes = type == DType::kMxInt8 ? 256 : 16;
    const int64_t cols = 256, rows = 240;  // and so more groups than there are scales
    std::vector<uint8_t> data(static_cast<size_t>(rows * cols * BitsOf(type) / 8));
    std::vector<uint8_t> scales(static_cast<size_t>(rows * cols / kGroup));
    std::vector<uint16_t> numbers(static_cast<size_t>(rows * cols));
    for (int64_t i = 0; i < rows * cols; ++i) {
      const auto code = static_cast<int>(i % codes);
      if (type == DType::kMxInt8) {
        data[static_cast<size_t>(i)] = static_cast<uint8_t>(code);
      } else {
        data[static_cast<size_t>(i / 2)] |= static_cast<uint8_t>(code << (i % 2 * 4));
      }
      scales[static_cast<size_t>(i / kGroup)] =
          static_cast<uint8_t>(kLeastScale + i / kGroup % (kGreatestScale - kLeastScale + 1));
    }
    const Weight packed = {data.data(), type, rows, cols, scales.data()};
    UnpackNumbers(packed, numbers.data());
    const Weight plain = {numbers.data(), DType::kBF16, rows, cols};
    // Each column of `up` comes out by itself: its row of x has a one there and else zeros, `gate`
    // is one everywhere, and `down` brings back the sum of hidden columns 0 and 1, 2 and 3 ...
    std::vector<uint16_t> ones(static_cast<size_t>(rows * cols), ToBf16(1.0f));
    std::vector<uint16_t> down(static_cast<size_t>(cols * rows), 0);
    for (int64_t c = 0; c < cols; ++c)
      down[static_cast<size_t>(c * rows + c % rows)] = ToBf16(1.0f);
    const Weight gate = {ones.data(), DType::kBF16, rows, cols};
    const Weight back = {down.data(), DType::kBF16, cols, rows};
    const FfnWeights a = {gate, packed, back}, b = {gate, plain, back};
    Batch x(cols, cols), of_packed(cols, cols), of_plain(cols, cols);
    std::vector<int32_t> all(static_cast<size_t>(cols));
    for (int64_t r = 0; r < cols; ++r) {
      all[static_cast<size_t>(r)] = static_cast<int32_t>(r);
      for (int64_t c = 0; c < cols; ++c) x.at(r, c) = r == c ? 0x1p-20f : 0.0f;
    }
    const ExpertWork work_a[] = {{&a, all, all}}, work_b[] = {{&b, all, all}};
    device->Experts(x.rows(), work_a, of_packed.rows());
    device->Experts(x.rows(), work_b, of_plain.rows());
    EXPECT_TRUE(SameBits(of_packed, of_plain));
  }
}

TEST_P(PackedExperts, AreThoseOfTheSameNumbersInAnyBatch) {
  struct Shape {
    int64_t dim, ffn;
  };
  for (const DType type : kForms) {
    for (const auto [dim, ffn] : {Shape{32, 32}, {96, 160}, {1056, 544}}) {
      SCOPED_TRACE(testing::Message() << "dim " << dim << ", ffn " << ffn);
      const PackedMatrix gate(ffn, dim, type, 1), up(ffn, dim, type, 2), down(dim, ffn, type, 3);
      const FfnWeights packed = {gate.packed(), up.packed(), down.packed()};
      const FfnWeights plain = {gate.unpacked(), up.unpacked(), down.unpacked()};
      const FfnWeights mixed = {gate.unpacked(), up.packed(), down.unpacked()};
      for (const int64_t rows : {1, 3, 17, 64, 290}) {
        if (rows * dim > 64 * 1056) continue;
        const Batch x(rows, dim, 4, 1.0);
        std::vector<int32_t> all;
        for (int32_t r = 0; r < rows; ++r) all.push_back(r);
        for (const int threads : {1, 2}) {
          const std::unique_ptr<Device> device = MakeDevice(GetParam(), threads);
          const auto run = [&](const FfnWeights& weights) {
            Batch out(rows, dim);
            const ExpertWork work[] = {{&weights, all, all}};
            device->Experts(x.rows(), work, out.rows());
            return out;
          };
          const Batch expected = run(plain);
          EXPECT_TRUE(SameBits(expected, run(packed))) << rows << " rows, " << threads;
          EXPECT_TRUE(SameBits(expected, run(mixed))) << rows << " rows, " << threads;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, PackedExperts, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace conclave::worker::parity
