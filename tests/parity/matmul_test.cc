#include <cmath>

#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

class MatMul : public testing::TestWithParam<LevelCase> {
 protected:
  DType ActivationsFor(Inputs inputs) const {
    return inputs == Inputs::kFloat ? DType::kF32 : GetParam().activations;
  }

  void Expect(int64_t m, int64_t n, int64_t k, DType type, Inputs inputs, bool with_bias) {
    SCOPED_TRACE(testing::Message() << m << "x" << n << "x" << k << " " << NameOf(type) << " "
                                    << static_cast<int>(inputs));
    const Matrix weight(n, k, type, 1);
    const Matrix bias(1, n, type, 2);
    const Batch x(m, k, 3, 1.0);
    Batch out(m, n);
    device_->MatMul(x.rows(), weight.weight(), with_bias ? bias.weight() : Weight{}, inputs,
                    out.rows());
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = with_bias ? bias.at(0, j) : 0.0;
        double size = std::fabs(sum);
        for (int64_t c = 0; c < k; ++c) {
          const double term =
              static_cast<double>(Rounded(x.at(i, c), ActivationsFor(inputs))) * weight.at(j, c);
          sum += term;
          size += std::fabs(term);
        }
        ASSERT_NEAR(out.at(i, j), sum, 2e-7 * size + 1e-30) << i << "," << j;
      }
    }
  }

  std::unique_ptr<Device> device_ = MakeDevice(GetParam());
};

TEST_P(MatMul, EqualsTheReferenceInEveryShapeAndType) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Inputs inputs : {Inputs::kActivationType, Inputs::kFloat}) {
      for (const int64_t k : {1, 7, 33, 48, 100, 257}) {
        for (const int64_t n : {1, 2, 3, 5, 33, 70}) {
          for (const int64_t m : {0, 1, 2, 3, 5, 66}) Expect(m, n, k, type, inputs, n % 2 == 1);
        }
      }
    }
  }
}

// Tasks, panels of rows and runs of columns at their ends.
TEST_P(MatMul, EqualsTheReferenceForManyRows) {
  for (const DType type : {DType::kBF16, DType::kF16}) {
    for (const int64_t m : {64, 65, 80, 81, 255, 256, 257, 300}) {
      for (const int64_t k : {128, 129, 257}) {
        Expect(m, 3, k, type, Inputs::kActivationType, false);
      }
    }
    Expect(300, 40, 33, type, Inputs::kActivationType, true);
  }
}

TEST_P(MatMul, TakesRowsNarrowerThanAPackedOne) {
  CpuDeviceOptions options;
  options.level = GetParam().level;
  options.threads = 1;
  options.activation_type = GetParam().activations;
  options.max_rows = 1;
  options.max_columns = 3;
  device_ = *MakeCpuDevice(options);
  Expect(5, 4, 3, DType::kBF16, Inputs::kActivationType, false);
}

TEST_P(MatMul, TakesMoreRowsThanItsScratchMemoryHolds) {
  device_ = MakeDevice(GetParam(), 2, 1);  // room for 4096 elements at once
  Expect(33, 20, 1000, DType::kBF16, Inputs::kActivationType, true);
}

TEST_P(MatMul, KeepsNanAndInfinity) {
  const Matrix weight(2, 40, GetParam().activations, 1);
  Batch x(2, 40, 3, 1.0), out(2, 2);
  x.at(0, 39) = NAN;
  x.at(1, 39) = INFINITY;
  device_->MatMul(x.rows(), weight.weight(), {}, Inputs::kActivationType, out.rows());
  for (int64_t j = 0; j < 2; ++j) {
    EXPECT_TRUE(std::isnan(out.at(0, j)));
    EXPECT_TRUE(std::isinf(out.at(1, j)));
  }
}

TEST_P(MatMul, PerHeadEqualsTheReferenceBothWaysRound) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const bool transposed : {false, true}) {
      for (const int64_t rows : {0, 1, 3, 65}) {
        // As MLA lays them out: per head 20 rows for keys, then 33 for values, of a latent of 150.
        Device::HeadMatMul shape;
        shape.heads = 3;
        shape.head_stride = 53;
        shape.first = transposed ? 20 : 0;
        shape.in_dim = transposed ? 150 : 20;
        shape.out_dim = transposed ? 33 : 150;
        shape.in_stride = shape.in_dim + 7;
        shape.out_stride = shape.out_dim + 5;
        shape.transposed = transposed;
        const Matrix weight(3 * 53, 150, type, 5);
        const Batch x(rows, 3 * shape.in_stride, 6, 1.0);
        Batch out(rows, 3 * shape.out_stride);
        device_->MatMulPerHead(x.rows(), weight.weight(), shape, out.rows());
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t h = 0; h < 3; ++h) {
            for (int64_t b = 0; b < shape.out_dim; ++b) {
              double sum = 0.0, size = 0.0;
              for (int64_t a = 0; a < shape.in_dim; ++a) {
                const double w =
                    transposed ? weight.at(h * 53 + 20 + b, a) : weight.at(h * 53 + a, b);
                const double term = static_cast<double>(x.at(r, h * shape.in_stride + a)) * w;
                sum += term;
                size += std::fabs(term);
              }
              ASSERT_NEAR(out.at(r, h * shape.out_stride + b), sum, 5e-7 * size)
                  << "transposed " << transposed << " row " << r << " head " << h << " column "
                  << b;
            }
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, MatMul, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace conclave::worker::parity
