#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

class Sample : public testing::TestWithParam<LevelCase> {
 protected:
  SampledToken One(Batch logits, const SampleRow& how, int64_t row = 0) {
    SampledToken token;
    device_->Sample(logits.Part(row, 1), {&how, 1}, {&token, 1});
    return token;
  }

  // How often each token comes of `draws` token indices.
  std::map<int32_t, int> Draw(const Batch& logits, SampleRow how, int draws) {
    std::map<int32_t, int> counts;
    for (int i = 0; i < draws; ++i) {
      how.token_index = static_cast<uint64_t>(i);
      ++counts[One(logits, how).token];
    }
    return counts;
  }

  static std::vector<double> Probabilities(const Batch& logits, double temperature) {
    std::vector<double> p;
    double sum = 0.0;
    for (int64_t c = 0; c < logits.rows().cols; ++c) {
      p.push_back(std::exp(static_cast<double>(logits.at(0, c)) / temperature));
      sum += p.back();
    }
    for (double& value : p) value /= sum;
    return p;
  }

  std::unique_ptr<Device> device_ = MakeDevice(GetParam(), 2);
};

TEST_P(Sample, GreedyTakesTheGreatestAndTheLowerOfEquals) {
  Batch logits(1, 1000, 1, 1.0);
  logits.at(0, 700) = logits.at(0, 300) = 9.0f;
  EXPECT_EQ(One(logits, {}).token, 300);
}

TEST_P(Sample, LogprobsAreOfTheUnmodifiedDistribution) {
  for (const int64_t vocab : {1, 5, 300, 5000}) {
    const Batch logits(1, vocab, 2, 4.0);
    const std::vector<double> p = Probabilities(logits, 1.0);
    std::vector<int32_t> order(p.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits.at(0, a) > logits.at(0, b); });
    const auto target = static_cast<int32_t>(vocab / 2);
    const SampledToken token =
        One(logits,
            {.temperature = 0.3f, .top_p = 0.1f, .top_k = 2, .target = target, .top_logprobs = 20});
    EXPECT_EQ(token.token, target);
    EXPECT_NEAR(token.logprob, std::log(p[static_cast<size_t>(target)]), 2e-6);
    ASSERT_EQ(token.top_count, std::min<int64_t>(20, vocab));
    for (int32_t i = 0; i < token.top_count; ++i) {
      EXPECT_EQ(token.top_tokens[i], order[static_cast<size_t>(i)]);
      EXPECT_NEAR(token.top_logprobs[i],
                  std::log(p[static_cast<size_t>(order[static_cast<size_t>(i)])]), 2e-6);
    }
  }
}

TEST_P(Sample, TopLogprobsOfEqualsAreTheLowerIds) {
  Batch logits(1, 50);
  for (int64_t c = 0; c < 50; ++c) logits.at(0, c) = c == 40 ? 1.0f : 0.0f;
  const SampledToken token = One(logits, {.top_logprobs = 3});
  EXPECT_EQ(token.top_tokens[0], 40);
  EXPECT_EQ(token.top_tokens[1], 0);
  EXPECT_EQ(token.top_tokens[2], 1);
}

TEST_P(Sample, DrawsByTheTemperedDistribution) {
  const Batch logits(1, 40, 3, 1.5);
  const int draws = 20000;
  const std::map<int32_t, int> counts = Draw(logits, {.temperature = 0.7f, .seed = 5}, draws);
  const std::vector<double> p = Probabilities(logits, 0.7);
  for (int32_t t = 0; t < 40; ++t) {
    const double expected = p[static_cast<size_t>(t)] * draws;
    const auto found = counts.find(t);
    EXPECT_NEAR(found == counts.end() ? 0 : found->second, expected,
                5.0 * std::sqrt(expected) + 3.0)
        << t;
  }
}

TEST_P(Sample, TopKKeepsTheGreatestAndTheLowerOfEquals) {
  Batch logits(1, 300);
  for (int64_t c = 0; c < 300; ++c)
    logits.at(0, c) = c >= 100 && c < 110 ? 1.0f : c == 7 ? 1.5f : -1.0f;
  const std::map<int32_t, int> counts = Draw(logits, {.temperature = 1.0f, .top_k = 4}, 400);
  ASSERT_EQ(counts.size(), 4u);
  for (const int32_t kept : {7, 100, 101, 102}) EXPECT_GT(counts.count(kept), 0u) << kept;
}

TEST_P(Sample, TopPKeepsTheSmallestSetThatReachesIt) {
  Batch logits(1, 5);  // probabilities 0.4 0.1 0.2 0.1 0.2
  const double p[] = {0.4, 0.1, 0.2, 0.1, 0.2};
  for (int64_t c = 0; c < 5; ++c) logits.at(0, c) = static_cast<float>(std::log(p[c]));
  const auto kept = [&](float top_p, int32_t top_k) {
    std::vector<int32_t> ids;
    for (const auto& [id, count] :
         Draw(logits, {.temperature = 1.0f, .top_p = top_p, .top_k = top_k}, 300)) {
      ids.push_back(id);
    }
    return ids;
  };
  EXPECT_EQ(kept(0.0f, 0), (std::vector<int32_t>{0}));
  EXPECT_EQ(kept(0.39f, 0), (std::vector<int32_t>{0}));
  EXPECT_EQ(kept(0.5f, 0), (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(kept(0.75f, 0), (std::vector<int32_t>{0, 2, 4}));
  EXPECT_EQ(kept(0.85f, 0), (std::vector<int32_t>{0, 1, 2, 4}));
  EXPECT_EQ(kept(1.0f, 0), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  // Of the three kept by top_k the first has half of the mass, the first two three quarters.
  EXPECT_EQ(kept(0.45f, 3), (std::vector<int32_t>{0}));
  EXPECT_EQ(kept(0.7f, 3), (std::vector<int32_t>{0, 2}));
}

TEST_P(Sample, DependsOnSeedAndTokenIndexAndOnNothingElse) {
  Batch logits(20, 5000, 4, 1.0);
  std::vector<SampleRow> rows(20);
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r] = {.temperature = 1.0f,
               .top_p = r % 2 ? 0.9f : 1.0f,
               .seed = r / 4,
               .token_index = r % 4,
               .top_logprobs = 5};
  }
  std::vector<SampledToken> together(20);
  device_->Sample(logits.rows(), rows, together);
  for (int64_t r = 0; r < 20; ++r) {
    const SampledToken alone = One(logits, rows[static_cast<size_t>(r)], r);
    EXPECT_EQ(alone.token, together[static_cast<size_t>(r)].token);
    EXPECT_EQ(alone.logprob, together[static_cast<size_t>(r)].logprob);
  }
  const Batch same(1, 5000, 4, 0.01);
  const auto token = [&](uint64_t seed, uint64_t index) {
    return One(same, {.temperature = 1.0f, .seed = seed, .token_index = index}).token;
  };
  EXPECT_NE(token(1, 0), token(2, 0));
  EXPECT_NE(token(1, 0), token(1, 1));
  EXPECT_NE(token(1, 2), token(2, 1));
}

TEST_P(Sample, TellsRowsThatAreNotFinite) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const int64_t at : {0, 15, 16, 99}) {
      Batch logits(1, 100, 5, 1.0);
      EXPECT_TRUE(One(logits, {}).finite);
      logits.at(0, at) = bad;
      EXPECT_FALSE(One(logits, {}).finite) << bad << " at " << at;
    }
  }
}

TEST_P(Sample, BearsExtremeTemperaturesAndLogits) {
  Batch logits(1, 100, 6, 1e37);
  const int32_t greedy = One(logits, {}).token;
  for (const float temperature : {1e-45f, 1e-30f, 1e-3f, 1.0f}) {
    EXPECT_EQ(One(logits, {.temperature = temperature, .top_p = 0.99f, .top_k = 50}).token, greedy);
  }
  const SampledToken hot = One(logits, {.temperature = 3e38f});
  EXPECT_GE(hot.token, 0);
  EXPECT_LT(hot.token, 100);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Sample, testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace conclave::worker::parity
