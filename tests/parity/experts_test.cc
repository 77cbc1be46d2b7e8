#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

struct Expert {
  Expert(int64_t dim, int64_t ffn, DType type, uint64_t seed)
      : gate(ffn, dim, type, seed, 0.3),
        up(ffn, dim, type, seed + 1, 0.3),
        down(dim, ffn, type, seed + 2, 0.3),
        gate_bias(1, ffn, type, seed + 3, 1.0),
        up_bias(1, ffn, type, seed + 4, 1.0),
        down_bias(1, dim, type, seed + 5, 1.0) {
    weights = {gate.weight(), up.weight(), down.weight()};
  }
  void UseBiases() {
    weights.gate_bias = gate_bias.weight();
    weights.up_bias = up_bias.weight();
    weights.down_bias = down_bias.weight();
  }
  Matrix gate, up, down;
  Matrix gate_bias, up_bias, down_bias;
  FfnWeights weights;
};

class Experts : public testing::TestWithParam<LevelCase> {
 protected:
  struct Sum {
    double value = 0.0;
    double size = 0.0;  // of the terms
    double greatest = 0.0;
  };
  static Sum Dot(const std::vector<double>& x, const Matrix& w, int64_t row, const Matrix* bias) {
    Sum sum;
    if (bias != nullptr) sum.value = bias->at(0, row);
    sum.size = std::fabs(sum.value);
    for (size_t c = 0; c < x.size(); ++c) {
      const double term = x[c] * w.at(row, static_cast<int64_t>(c));
      sum.value += term;
      sum.size += std::fabs(term);
      sum.greatest = std::max(sum.greatest, std::fabs(term));
    }
    return sum;
  }

  struct Answer {
    double value = 0.0;
    double tolerance = 0.0;
  };

  // What the hidden rows are before they are rounded, and by how much of a unit each of the two
  // moves it.
  struct Hidden {
    double value = 0.0;
    double of_gate = 0.0;
    double of_up = 0.0;
  };
  static Hidden Activate(const FfnActivation& activation, double gate, double up) {
    if (activation.kind == FfnActivation::Kind::kSilu) {
      const double silu = gate / (1.0 + std::exp(-gate));
      return {silu * up, std::fabs(up), std::fabs(silu)};
    }
    const auto limit = static_cast<double>(activation.limit);
    const auto alpha = static_cast<double>(activation.alpha);
    gate = std::min(gate, limit);
    up = std::clamp(up, -limit, limit) + 1.0;
    const double swish = gate / (1.0 + std::exp(-alpha * gate));
    return {swish * up, (1.0 + alpha) * std::fabs(up), std::fabs(swish)};
  }

  // One row through one expert; rounding where the device rounds.
  static std::vector<Answer> Reference(const Batch& x, int64_t row, const Expert& expert,
                                       int64_t dim, int64_t ffn) {
    const DType type = GetParam().activations;
    const double ulp = type == DType::kBF16 ? 0x1p-7 : type == DType::kF16 ? 0x1p-10 : 0x1p-23;
    std::vector<double> in, hidden, hidden_error;
    for (int64_t c = 0; c < dim; ++c) {
      in.push_back(static_cast<double>(Rounded(x.at(row, c), type)));
    }
    for (int64_t f = 0; f < ffn; ++f) {
      const bool biased = static_cast<bool>(expert.weights.gate_bias);
      const Sum gate = Dot(in, expert.gate, f, biased ? &expert.gate_bias : nullptr);
      const Sum up = Dot(in, expert.up, f, biased ? &expert.up_bias : nullptr);
      const Hidden made = Activate(expert.weights.activation, gate.value, up.value);
      hidden.push_back(static_cast<double>(Rounded(static_cast<float>(made.value), type)));
      hidden_error.push_back(4e-7 * ((gate.size + 1.0) * made.of_gate + up.size * made.of_up));
    }
    std::vector<Answer> answers;
    for (int64_t c = 0; c < dim; ++c) {
      const Sum out =
          Dot(hidden, expert.down, c, expert.weights.down_bias ? &expert.down_bias : nullptr);
      // A hidden value between two of the type may go either way: one unit in the last place, for a
      // term or two.
      double tolerance = ulp * (2.0 * out.greatest + std::fabs(out.value)) + 2e-7 * out.size + 1e-7;
      for (int64_t f = 0; f < ffn; ++f) {
        tolerance += hidden_error[static_cast<size_t>(f)] * std::fabs(expert.down.at(c, f));
      }
      answers.push_back({out.value, tolerance});
    }
    return answers;
  }
};

TEST_P(Experts, EqualTheReferenceForEveryExpertAndType) {
  const int64_t dim = 50, rows = 90;
  for (const int64_t ffn : {1, 33, 70}) {
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
      SCOPED_TRACE(testing::Message() << "ffn " << ffn << " " << NameOf(type));
      // Small scratch memory: without tiles, the second expert's rows do not fit beside the
      // first's.
      const std::unique_ptr<Device> device = MakeDevice(GetParam(), 2, 2);
      const Expert a(dim, ffn, type, 10), b(dim, ffn, type, 20), none(dim, ffn, type, 30);
      const Batch x(rows, dim, 7, 1.0);
      std::vector<int32_t> a_in, a_out, b_in, b_out;
      for (int32_t r = 0; r < rows; ++r) {
        if (r % 3 != 0) {
          a_in.push_back(r);
          a_out.push_back(2 * r + 1);
        }
        if (r % 5 != 0) {
          b_in.push_back(r);
          b_out.push_back(2 * r);
        }
      }
      const ExpertWork work[] = {
          {&a.weights, a_in, a_out}, {&none.weights, {}, {}}, {&b.weights, b_in, b_out}};
      Batch out(2 * rows, dim);
      device->Experts(x.rows(), work, out.rows());
      for (int64_t o = 0; o < 2 * rows; ++o) {
        const int64_t r = o / 2;
        const bool is_a = o % 2 == 1;
        if (r % (is_a ? 3 : 5) == 0) {
          for (int64_t c = 0; c < dim; ++c)
            ASSERT_EQ(out.at(o, c), -77.0f) << "untouched row " << o;
          continue;
        }
        const std::vector<Answer> expected = Reference(x, r, is_a ? a : b, dim, ffn);
        for (int64_t c = 0; c < dim; ++c) {
          const Answer& answer = expected[static_cast<size_t>(c)];
          ASSERT_NEAR(out.at(o, c), answer.value, answer.tolerance) << o << "," << c;
          ASSERT_EQ(out.at(o, c), Rounded(out.at(o, c), GetParam().activations));
        }
      }
    }
  }
}

TEST_P(Experts, EqualTheReferenceWithBiasesAndClampedSwish) {
  const std::unique_ptr<Device> device = MakeDevice(GetParam(), 2);
  const int64_t dim = 50, ffn = 70, rows = 70;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const float limit : {7.0f, 0.8f}) {
      SCOPED_TRACE(testing::Message() << "limit " << limit << " " << NameOf(type));
      Expert expert(dim, ffn, type, 10);
      expert.UseBiases();
      expert.weights.activation = {FfnActivation::Kind::kClampedSwish, 1.702f, limit};
      const Batch x(rows, dim, 7, 1.0);
      std::vector<int32_t> all(rows);
      std::iota(all.begin(), all.end(), 0);
      const ExpertWork work[] = {{&expert.weights, all, all}};
      Batch out(rows, dim);
      device->Experts(x.rows(), work, out.rows());
      for (int64_t r = 0; r < rows; ++r) {
        const std::vector<Answer> expected = Reference(x, r, expert, dim, ffn);
        for (int64_t c = 0; c < dim; ++c) {
          const Answer& answer = expected[static_cast<size_t>(c)];
          ASSERT_NEAR(out.at(r, c), answer.value, answer.tolerance) << r << "," << c;
        }
      }
    }
  }
}

TEST_P(Experts, ShowANanThroughTheClamp) {
  const std::unique_ptr<Device> device = MakeDevice(GetParam());
  Expert expert(20, 30, GetParam().activations, 10);
  expert.weights.activation = {FfnActivation::Kind::kClampedSwish, 1.702f, 7.0f};
  Batch x(1, 20, 7, 1.0);
  x.at(0, 3) = NAN;
  const std::vector<int32_t> row = {0};
  const ExpertWork work[] = {{&expert.weights, row, row}};
  Batch out(1, 20);
  device->Experts(x.rows(), work, out.rows());
  EXPECT_TRUE(std::isnan(out.at(0, 0)));
}

TEST_P(Experts, MayHaveGateAndUpOfDifferentTypes) {
  const std::unique_ptr<Device> device = MakeDevice(GetParam());
  const int64_t dim = 40, ffn = 20;
  Expert expert(dim, ffn, DType::kBF16, 10);
  expert.up = Matrix(ffn, dim, DType::kF32, 40, 0.3);
  expert.weights.up = expert.up.weight();
  const Batch x(1, dim, 7, 1.0);
  const std::vector<int32_t> row = {0};
  const ExpertWork work[] = {{&expert.weights, row, row}};
  Batch out(1, dim);
  device->Experts(x.rows(), work, out.rows());
  const std::vector<Answer> expected = Reference(x, 0, expert, dim, ffn);
  for (int64_t c = 0; c < dim; ++c) {
    const Answer& answer = expected[static_cast<size_t>(c)];
    EXPECT_NEAR(out.at(0, c), answer.value, answer.tolerance);
  }
}

TEST_P(Experts, MayHaveDownOfAnotherType) {
  const std::unique_ptr<Device> device = MakeDevice(GetParam(), 2);
  const int64_t dim = 40, ffn = 70, rows = 40;
  Expert to_wide(dim, ffn, DType::kBF16, 10), to_narrow(dim, ffn, DType::kF32, 20);
  to_wide.down = Matrix(dim, ffn, DType::kF32, 40, 0.3);
  to_wide.weights.down = to_wide.down.weight();
  to_narrow.down = Matrix(dim, ffn, DType::kBF16, 50, 0.3);
  to_narrow.weights.down = to_narrow.down.weight();
  const Batch x(rows, dim, 7, 1.0);
  std::vector<int32_t> in(rows), wide_out, narrow_out;
  std::iota(in.begin(), in.end(), 0);
  for (int32_t r = 0; r < rows; ++r) {
    wide_out.push_back(2 * r);
    narrow_out.push_back(2 * r + 1);
  }
  const ExpertWork work[] = {{&to_wide.weights, in, wide_out},
                             {&to_narrow.weights, in, narrow_out}};
  Batch out(2 * rows, dim);
  device->Experts(x.rows(), work, out.rows());
  for (int64_t o = 0; o < 2 * rows; ++o) {
    const std::vector<Answer> expected =
        Reference(x, o / 2, o % 2 == 0 ? to_wide : to_narrow, dim, ffn);
    for (int64_t c = 0; c < dim; ++c) {
      const Answer& answer = expected[static_cast<size_t>(c)];
      ASSERT_NEAR(out.at(o, c), answer.value, answer.tolerance) << o << "," << c;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Experts, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace conclave::worker::parity
