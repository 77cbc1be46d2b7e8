#include "tests/parity/tensors.h"

#include <cmath>
#include <cstring>

namespace conclave::worker::parity {
namespace {

struct Format {
  int fraction_bits;
  int min_exponent;  // of normal numbers
  double max;
};

Format FormatOf(DType type) {
  switch (type) {
    case DType::kBF16:
      return {7, -126, 0x1.fep127};
    case DType::kF16:
      return {10, -14, 65504.0};
    default:
      break;
  }
  return {23, -126, 0x1.fffffep127};
}

// The bytes of a value that the type holds exactly.
uint16_t Encode(float x, DType type) {
  uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof(bits));
  if (type == DType::kBF16) return static_cast<uint16_t>(bits >> 16);
  const auto sign = static_cast<uint16_t>(bits >> 31 << 15);
  if (x == 0.0f) return sign;
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(static_cast<double>(x)), &exponent);  // in [0.5, 1)
  if (exponent - 1 < -14) {
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::ldexp(std::fabs(x), 24)));
  }
  const auto mantissa = static_cast<uint16_t>(std::ldexp(fraction, 11) - 1024);
  return static_cast<uint16_t>(sign | (exponent - 1 + 15) << 10 | mantissa);
}

}  // namespace

const char* NameOf(DType type) {
  return type == DType::kF32 ? "F32" : type == DType::kBF16 ? "BF16" : "F16";
}

void PrintTo(const LevelCase& which, std::ostream* out) {
  *out << which.level << "_" << NameOf(which.activations);
}

std::string CaseName(const testing::TestParamInfo<LevelCase>& info) {
  return testing::PrintToString(info.param);
}

std::vector<LevelCase> AllCases() {
  std::vector<LevelCase> cases;
  for (const std::string& level : CpuLevels()) {
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
      cases.push_back({level, type});
  }
  return cases;
}

std::unique_ptr<Device> MakeDevice(const LevelCase& which, int threads, int32_t max_rows) {
  CpuDeviceOptions options;
  options.threads = threads;
  options.level = which.level;
  options.activation_type = which.activations;
  options.max_rows = max_rows;
  options.max_columns = 4096;
  absl::StatusOr<std::unique_ptr<Device>> device = MakeCpuDevice(options);
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}

float Rounded(float x, DType type) {
  if (type == DType::kF32 || x == 0.0f || !std::isfinite(x)) return x;
  const Format format = FormatOf(type);
  int exponent = 0;
  std::frexp(static_cast<double>(x), &exponent);
  const int last = std::max(exponent - 1, format.min_exponent) - format.fraction_bits;
  const double rounded =
      std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(x), -last)), last);
  if (std::fabs(rounded) > format.max) return std::copysign(INFINITY, x);
  return static_cast<float>(std::copysign(rounded, static_cast<double>(x)));
}

Matrix::Matrix(int64_t rows, int64_t cols, DType type, uint64_t seed, double spread, int shift)
    : rows_(rows), cols_(cols), type_(type), shift_(shift) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, static_cast<float>(spread));
  const auto size = static_cast<size_t>(rows * cols);
  values_.resize(size);
  bytes_.resize(size * SizeOf(type) + static_cast<size_t>(shift));
  char* to = bytes_.data() + shift;
  for (float& value : values_) {
    value = Rounded(normal(random), type);
    const uint16_t half = type == DType::kF32 ? uint16_t{0} : Encode(value, type);
    if (type == DType::kF32) {
      std::memcpy(to, &value, 4);
    } else {
      std::memcpy(to, &half, 2);
    }
    to += SizeOf(type);
  }
}

Batch::Batch(int64_t rows, int64_t cols, int64_t gap)
    : rows_(rows), cols_(cols), stride_(cols + gap) {
  data_.assign(static_cast<size_t>(rows * stride_ + 1), -77.0f);
}

Batch::Batch(int64_t rows, int64_t cols, uint64_t seed, double spread) : Batch(rows, cols, 3) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, static_cast<float>(spread));
  for (float& value : data_) value = normal(random);
}

testing::AssertionResult SameBits(const Batch& a, const Batch& b) {
  const ConstRows x = a.rows(), y = b.rows();
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      if (std::memcmp(&x.row(r)[c], &y.row(r)[c], sizeof(float)) != 0) {
        return testing::AssertionFailure()
               << "row " << r << " column " << c << ": " << x.row(r)[c] << " and " << y.row(r)[c];
      }
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace conclave::worker::parity
