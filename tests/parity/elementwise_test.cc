#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>

#include "absl/status/status.h"
#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

class Elementwise : public testing::TestWithParam<LevelCase> {
 protected:
  std::unique_ptr<Device> device_ = MakeDevice(GetParam(), 2);
};

TEST_P(Elementwise, EmbedCopiesRowsOfEveryType) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t dim : {1, 7, 33, 100}) {
      const Matrix table(9, dim, type, 1);
      const std::vector<int32_t> ids = {8, 0, 3, 3};
      Batch out(4, dim);
      device_->Embed(table.weight(), ids, out.rows());
      for (int64_t r = 0; r < 4; ++r) {
        for (int64_t c = 0; c < dim; ++c) {
          ASSERT_EQ(out.at(r, c), static_cast<float>(table.at(ids[static_cast<size_t>(r)], c)));
        }
        EXPECT_EQ(out.rows().row(r)[dim], -77.0f) << "wrote past the row";
      }
    }
  }
}

TEST_P(Elementwise, RmsNormEqualsTheReferenceAlsoInPlace) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t dim : {1, 7, 33, 48, 1000}) {
      const Matrix weight(1, dim, type, 1);
      const Batch x(3, dim, 2, 2.0);
      Batch out(3, dim), in_place = x;
      device_->RmsNorm(x.rows(), weight.weight(), 1e-5f, out.rows());
      device_->RmsNorm(in_place.rows(), weight.weight(), 1e-5f, in_place.rows());
      EXPECT_TRUE(SameBits(out, in_place));
      for (int64_t r = 0; r < 3; ++r) {
        double squares = 0.0;
        for (int64_t c = 0; c < dim; ++c) squares += std::pow(static_cast<double>(x.at(r, c)), 2);
        const double norm = std::sqrt(squares / static_cast<double>(dim) + 1e-5);
        for (int64_t c = 0; c < dim; ++c) {
          const double expected = static_cast<double>(x.at(r, c)) / norm * weight.at(0, c);
          ASSERT_NEAR(out.at(r, c), expected, 1e-6 * std::fabs(expected) + 1e-30);
        }
      }
    }
  }
}

TEST_P(Elementwise, RmsNormOfHeadsNormsEachByItself) {
  const int64_t heads = 3;
  for (const int64_t dim : {2, 12, 33, 64}) {
    const Matrix weight(1, dim, DType::kF32, 1);
    const Batch x(5, heads * dim, 2, 2.0);
    Batch out(5, heads * dim);
    device_->RmsNorm(x.rows(), weight.weight(), 1e-5f, out.rows());
    for (int64_t h = 0; h < heads; ++h) {
      Batch head(5, dim);
      device_->RmsNorm(x.rows().Columns(h * dim, dim), weight.weight(), 1e-5f, head.rows());
      for (int64_t r = 0; r < 5; ++r) {
        for (int64_t c = 0; c < dim; ++c) ASSERT_EQ(out.at(r, h * dim + c), head.at(r, c));
      }
    }
  }
}

TEST_P(Elementwise, ScaleBySigmoidScalesEveryRowByItsOwnShare) {
  for (const int64_t dim : {1, 7, 100}) {
    Batch logits(4, 1), x(4, dim, 2, 2.0);
    const Batch before = x;
    logits.at(0, 0) = 0.0f;
    logits.at(1, 0) = -3.5f;
    logits.at(2, 0) = 200.0f;
    logits.at(3, 0) = -200.0f;
    device_->ScaleBySigmoid(logits.rows(), x.rows());
    for (int64_t r = 0; r < 4; ++r) {
      const double share = 1.0 / (1.0 + std::exp(-static_cast<double>(logits.at(r, 0))));
      for (int64_t c = 0; c < dim; ++c) {
        const double expected = share * static_cast<double>(before.at(r, c));
        ASSERT_NEAR(x.at(r, c), expected, 1e-6 * std::fabs(expected) + 1e-30);
      }
    }
  }
}

TEST_P(Elementwise, ClipBoundsBothSidesAndKeepsNan) {
  Batch x(1, 4);
  x.at(0, 0) = -9.0f;
  x.at(0, 1) = 9.0f;
  x.at(0, 2) = 0.5f;
  x.at(0, 3) = NAN;
  device_->Clip(x.rows(), 2.0f);
  EXPECT_EQ(x.at(0, 0), -2.0f);
  EXPECT_EQ(x.at(0, 1), 2.0f);
  EXPECT_EQ(x.at(0, 2), 0.5f);
  EXPECT_TRUE(std::isnan(x.at(0, 3)));
}

TEST_P(Elementwise, CombineSumsInGateOrderThenSharedThenResidual) {
  const int64_t n = 70, dim = 101;
  const int32_t top_k = 3;
  const Batch outputs(n * top_k, dim, 1, 1.0), shared(n, dim, 2, 1.0), before(n, dim, 3, 1.0);
  std::vector<float> weights;
  for (int64_t i = 0; i < n * top_k; ++i)
    weights.push_back(0.1f * static_cast<float>(i % 7) - 0.2f);
  for (const bool with_shared : {true, false}) {
    Batch hidden = before;
    device_->Combine(outputs.rows(), weights, top_k, with_shared ? shared.rows() : ConstRows{},
                     hidden.rows());
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < dim; ++c) {
        volatile float sum = 0.0f;  // every step rounds to fp32
        for (int64_t j = 0; j < top_k; ++j) {
          const volatile float term =
              weights[static_cast<size_t>(r * top_k + j)] * outputs.at(r * top_k + j, c);
          sum = sum + term;
        }
        if (with_shared) sum = sum + shared.at(r, c);
        ASSERT_EQ(hidden.at(r, c), before.at(r, c) + sum);
      }
    }
  }
}

TEST_P(Elementwise, AddAndGatherTakeRowsOfAnyStride) {
  const Batch y(5, 40, 1, 1.0), before(5, 40, 2, 1.0);
  Batch x = before;
  device_->Add(y.rows(), x.rows());
  const std::vector<int32_t> rows = {4, 0, 4};
  Batch gathered(3, 40, 9);
  device_->Gather(x.rows(), rows, gathered.rows());
  for (int64_t c = 0; c < 40; ++c) {
    EXPECT_EQ(x.at(3, c), before.at(3, c) + y.at(3, c));
    for (int64_t r = 0; r < 3; ++r)
      EXPECT_EQ(gathered.at(r, c), x.at(rows[static_cast<size_t>(r)], c));
  }
}

// Through the cache, which rounds with the same function as products do.
TEST_P(Elementwise, RoundsToNearestEvenAndKeepsNan) {
  const DType type = GetParam().activations;
  std::vector<float> values = {
      0.0f,    -0.0f,     1.0f,    1.00390625f, 1.01171875f, -1.01171875f, 65503.9f, 65519.99f,
      65520.f, 1e38f,     3.4e38f, INFINITY,    -INFINITY,   5.96e-8f,     2.98e-8f, 2.99e-8f,
      6.1e-5f, 6.097e-5f, 1e-40f,  -1.2e-38f,   1e-45f,      0.33333334f,  2049.0f,  2051.0f};
  for (int i = 0; i < 20000; ++i) {
    const uint32_t bits = static_cast<uint32_t>(i) * 214741u + 7u;
    float value = 0.0f;
    std::memcpy(&value, &bits, 4);
    if (!std::isnan(value)) values.push_back(value);
  }
  const auto n = static_cast<int64_t>(values.size());
  const uint32_t nan_bits[] = {0x7fc00000, 0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff};
  for (const uint32_t bits : nan_bits) {
    float value = 0.0f;
    std::memcpy(&value, &bits, 4);
    values.push_back(value);
  }
  const auto all = static_cast<int64_t>(values.size());
  const absl::StatusOr<void*> data = device_->Allocate(static_cast<size_t>(all) * 4, "cache");
  ASSERT_TRUE(data.ok());
  const int32_t block = 0;
  const std::vector<std::span<const int32_t>> tables = {{&block, 1}};
  const std::vector<RowPlace> places = {{0, 0}};
  device_->StoreKv({values.data(), 1, all, all}, {places, tables}, 0, {*data, type, 1, all, 1});
  Batch back(1, all);
  device_->Embed({*data, type, 1, all}, std::vector<int32_t>{0}, back.rows());
  for (int64_t c = 0; c < n; ++c) {
    const float expected = Rounded(values[static_cast<size_t>(c)], type);
    ASSERT_EQ(back.at(0, c), expected) << values[static_cast<size_t>(c)];
    ASSERT_EQ(std::signbit(back.at(0, c)), std::signbit(expected));
  }
  for (int64_t c = n; c < all; ++c) EXPECT_TRUE(std::isnan(back.at(0, c)));
}

TEST_P(Elementwise, CopiesABlockOfTheCacheAndNothingElse) {
  constexpr int32_t kBlocks = 5, kSize = 3, kWidth = 7;
  const DType type = GetParam().activations;
  const size_t bytes = SizeOf(type) * kWidth;
  std::vector<char> cache(bytes * kBlocks * kSize);
  for (size_t i = 0; i < cache.size(); ++i) cache[i] = static_cast<char>(i * 37);
  std::vector<char> expected = cache;
  std::memcpy(&expected[1 * kSize * bytes], &expected[3 * kSize * bytes], kSize * bytes);
  device_->CopyKv({cache.data(), type, kBlocks * kSize, kWidth, kSize}, 3, 1);
  EXPECT_EQ(cache, expected);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Elementwise, testing::ValuesIn(AllCases()), CaseName);

TEST(CpuDevice, NamesWhatItsResultsDependOn) {
  EXPECT_EQ(MakeDevice({"portable", DType::kBF16})->numerics(), "cpu-portable-1-bf16");
  EXPECT_EQ(MakeDevice({"portable", DType::kF32})->activation_type(), DType::kF32);
}

TEST(CpuDevice, RefusesAnUnknownLevelByName) {
  const auto device = MakeCpuDevice({.level = "sse9"});
  EXPECT_EQ(device.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(device.status().message().find("sse9"), absl::string_view::npos);
}

TEST(CpuDevice, RefusesWhatIsBeyondItsLimits) {
  EXPECT_TRUE(MakeCpuDevice({.threads = 1, .max_rows = 1, .max_columns = 1}).ok());
  const CpuDeviceOptions bad[] = {{.threads = -1},    {.threads = 1025},
                                  {.max_rows = 0},    {.max_rows = (1 << 20) + 1},
                                  {.max_columns = 0}, {.max_columns = (1 << 20) + 1}};
  for (const CpuDeviceOptions& options : bad) {
    EXPECT_EQ(MakeCpuDevice(options).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(CpuDevice, TakesTheBestLevelUnlessToldOtherwise) {
  const auto device = MakeCpuDevice({.threads = 1});
  ASSERT_TRUE(device.ok());
  EXPECT_EQ((*device)->numerics(), "cpu-" + CpuLevels().front() + "-1-bf16");
  EXPECT_EQ(CpuLevels().back(), "portable");
}

TEST(CpuDevice, MemoryIsZeroAndNotResidentBeforeItIsWritten) {
  const std::unique_ptr<Device> device = MakeDevice({"portable", DType::kF32});
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const absl::StatusOr<void*> data = device->Allocate(64 * page, "cache");
  ASSERT_TRUE(data.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(*data) % 64, 0u);
  std::vector<unsigned char> resident(64);
  ASSERT_EQ(mincore(*data, 64 * page, resident.data()), 0);
  for (const unsigned char page_resident : resident) EXPECT_EQ(page_resident & 1, 0);
  EXPECT_EQ(static_cast<const char*>(*data)[64 * page - 1], 0);
}

TEST(CpuDevice, TakesMemoryAtOnceWhenTold) {
  const std::unique_ptr<Device> device = MakeDevice({"portable", DType::kF32});
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const absl::StatusOr<void*> data = device->Allocate(64 * page, "cache", Device::Take::kNow);
  ASSERT_TRUE(data.ok());
  std::vector<unsigned char> resident(64);
  ASSERT_EQ(mincore(*data, 64 * page, resident.data()), 0);
  for (const unsigned char page_resident : resident) EXPECT_EQ(page_resident & 1, 1);
  // More than any machine has left, though it may be mapped: an error, not the end of the process.
  const absl::StatusOr<void*> dream =
      device->Allocate(size_t{1} << 45, "a larger one", Device::Take::kNow);
  EXPECT_EQ(dream.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(CpuDevice, SaysForWhatThereIsNoMemory) {
  const std::unique_ptr<Device> device = MakeDevice({"portable", DType::kF32});
  const absl::StatusOr<void*> data = device->Allocate(size_t{1} << 60, "a cache of dreams");
  EXPECT_EQ(data.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(data.status().message().find("a cache of dreams"), absl::string_view::npos);
}

}  // namespace
}  // namespace conclave::worker::parity
