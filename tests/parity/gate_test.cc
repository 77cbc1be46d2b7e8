#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

class Gate : public testing::TestWithParam<LevelCase> {
 protected:
  struct Chosen {
    std::vector<int32_t> slots;
    std::vector<float> weights;
  };

  Chosen Choose(const Batch& logits, const GateShape& shape, const float* bias = nullptr) {
    const auto size = static_cast<size_t>(logits.rows().rows * shape.top_k);
    Chosen chosen{std::vector<int32_t>(size), std::vector<float>(size)};
    device_->Gate(logits.rows(), shape, bias, chosen.slots, chosen.weights);
    return chosen;
  }

  static std::vector<double> Scores(const Batch& logits, int64_t row, const GateShape& shape) {
    std::vector<double> scores;
    double sum = 0.0;
    for (int64_t s = 0; s < shape.slots; ++s) {
      const auto logit = static_cast<double>(logits.at(row, s));
      scores.push_back(shape.score == GateShape::Score::kSigmoid ? 1.0 / (1.0 + std::exp(-logit))
                                                                 : std::exp(logit));
      sum += scores.back();
    }
    if (shape.score == GateShape::Score::kSoftmax) {
      for (double& score : scores) score /= sum;
    }
    return scores;
  }

  // By sorting, in double.
  static std::vector<int32_t> Select(const std::vector<double>& shifted, const GateShape& shape) {
    const int32_t size = shape.slots / shape.groups;
    std::vector<bool> allowed(shifted.size(), shape.select == GateShape::Select::kTopK);
    if (shape.select != GateShape::Select::kTopK) {
      std::vector<double> group(static_cast<size_t>(shape.groups));
      for (int32_t g = 0; g < shape.groups; ++g) {
        std::vector<double> own(shifted.begin() + g * size, shifted.begin() + (g + 1) * size);
        std::sort(own.rbegin(), own.rend());
        group[static_cast<size_t>(g)] =
            own[0] + (shape.select == GateShape::Select::kGroupTop2Sum ? own[1] : 0.0);
      }
      std::vector<size_t> order(group.size());
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return group[a] > group[b]; });
      for (int32_t i = 0; i < shape.top_groups; ++i) {
        for (int32_t s = 0; s < size; ++s) {
          allowed[order[static_cast<size_t>(i)] * static_cast<size_t>(size) +
                  static_cast<size_t>(s)] = true;
        }
      }
    }
    std::vector<int32_t> order;
    for (int32_t s = 0; s < shape.slots; ++s) {
      if (allowed[static_cast<size_t>(s)]) order.push_back(s);
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return shifted[static_cast<size_t>(a)] > shifted[static_cast<size_t>(b)];
    });
    order.resize(static_cast<size_t>(shape.top_k));
    return order;
  }

  void Expect(const GateShape& shape, bool with_bias) {
    const Batch logits(40, shape.slots, 5, 2.0);
    std::vector<float> bias;
    for (int32_t s = 0; s < shape.slots; ++s) bias.push_back(0.05f * static_cast<float>(s % 9));
    const Chosen chosen = Choose(logits, shape, with_bias ? bias.data() : nullptr);
    for (int64_t r = 0; r < 40; ++r) {
      const std::vector<double> scores = Scores(logits, r, shape);
      std::vector<double> shifted = scores;
      if (with_bias) {
        for (size_t s = 0; s < shifted.size(); ++s) shifted[s] += static_cast<double>(bias[s]);
      }
      const std::vector<int32_t> expected = Select(shifted, shape);
      double sum = 0.0;
      for (const int32_t s : expected) sum += scores[static_cast<size_t>(s)];
      for (int32_t j = 0; j < shape.top_k; ++j) {
        const auto at = static_cast<size_t>(r * shape.top_k + j);
        ASSERT_EQ(chosen.slots[at], expected[static_cast<size_t>(j)])
            << "row " << r << " place " << j;
        const double weight = scores[static_cast<size_t>(expected[static_cast<size_t>(j)])] /
                              (shape.normalise ? sum : 1.0) * static_cast<double>(shape.scale);
        ASSERT_NEAR(chosen.weights[at], weight, 2e-6 * weight);
      }
    }
  }

  std::unique_ptr<Device> device_ = MakeDevice(GetParam(), 2);
};

TEST_P(Gate, EqualsTheReferenceInEveryPipeline) {
  for (const GateShape::Score score : {GateShape::Score::kSoftmax, GateShape::Score::kSigmoid}) {
    for (const GateShape::Select select : {GateShape::Select::kTopK, GateShape::Select::kGroupMax,
                                           GateShape::Select::kGroupTop2Sum}) {
      for (const bool normalise : {false, true}) {
        for (const bool with_bias : {false, true}) {
          Expect({.slots = 60,
                  .top_k = 5,
                  .score = score,
                  .select = select,
                  .groups = 6,
                  .top_groups = 2,
                  .normalise = normalise,
                  .scale = 2.5f},
                 with_bias);
        }
      }
    }
  }
  Expect({.slots = 7, .top_k = 7}, false);
  Expect({.slots = 1, .top_k = 1}, false);
}

TEST_P(Gate, MayChooseByLogitAndWeighTheChosenAlone) {
  const GateShape shape = {.slots = 20, .top_k = 4, .score = GateShape::Score::kLogit};
  // So far apart that a softmax over all of them would make most of them zero, and equal.
  const Batch logits(40, 20, 5, 60.0);
  const Chosen chosen = Choose(logits, shape);
  for (int64_t r = 0; r < 40; ++r) {
    std::vector<double> scores;
    for (int64_t s = 0; s < 20; ++s) scores.push_back(static_cast<double>(logits.at(r, s)));
    const std::vector<int32_t> expected = Select(scores, shape);
    double sum = 0.0;
    for (const int32_t s : expected)
      sum += std::exp(scores[static_cast<size_t>(s)] - scores[static_cast<size_t>(expected[0])]);
    for (int32_t j = 0; j < 4; ++j) {
      const auto at = static_cast<size_t>(r * 4 + j);
      const int32_t slot = expected[static_cast<size_t>(j)];
      ASSERT_EQ(chosen.slots[at], slot) << "row " << r << " place " << j;
      const double weight =
          std::exp(scores[static_cast<size_t>(slot)] - scores[static_cast<size_t>(expected[0])]) /
          sum;
      ASSERT_NEAR(chosen.weights[at], weight, 1e-5 * weight + 1e-37);
    }
  }
}

TEST_P(Gate, TiesGoToTheLowerSlotAndTheLowerGroup) {
  Batch logits(1, 8);
  for (int64_t s = 0; s < 8; ++s) logits.at(0, s) = s == 5 ? 2.0f : 1.0f;
  EXPECT_EQ(Choose(logits, {.slots = 8, .top_k = 4}).slots, (std::vector<int32_t>{5, 0, 1, 2}));
  logits.at(0, 5) = 1.0f;
  EXPECT_EQ(Choose(logits, {.slots = 8,
                            .top_k = 3,
                            .select = GateShape::Select::kGroupMax,
                            .groups = 4,
                            .top_groups = 2})
                .slots,
            (std::vector<int32_t>{0, 1, 2}));
}

TEST_P(Gate, GivesValidSlotsEvenForNan) {
  Batch logits(1, 6);
  for (int64_t s = 0; s < 6; ++s) logits.at(0, s) = NAN;
  const Chosen chosen = Choose(logits, {.slots = 6, .top_k = 3});
  EXPECT_EQ(chosen.slots, (std::vector<int32_t>{0, 1, 2}));
  for (const float weight : chosen.weights) EXPECT_TRUE(std::isnan(weight));
}

INSTANTIATE_TEST_SUITE_P(Cpu, Gate, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace conclave::worker::parity
