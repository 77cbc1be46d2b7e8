// What a request may ask of sampling, against a slow reference in double: which token is greedy,
// what can be drawn, and how often over seeded draws.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ostream>

#include "tests/parity/chi_square.h"
#include "tests/parity/tensors.h"

namespace conclave::worker::parity {
namespace {

constexpr int kVocab = 40;
constexpr int kDraws = 20000;
constexpr double kUnlikely = 0.001;

// The distribution a row is drawn from, as SampleRow's comment says it, step by step.
std::vector<double> Distribution(const Batch& logits, const SampleRow& how) {
  std::vector<double> x;
  for (int64_t c = 0; c < logits.rows().cols; ++c) x.push_back(logits.at(0, c));
  for (const LogitEdit& edit : how.edits) {
    double& logit = x[static_cast<size_t>(edit.token)];
    logit += edit.bias;
    if (edit.seen) {
      logit = logit > 0 ? logit / how.repetition_penalty : logit * how.repetition_penalty;
    }
    logit -= static_cast<double>(how.frequency_penalty) * edit.count;
    if (edit.count > 0) logit -= how.presence_penalty;
    if (edit.forbidden) logit = -INFINITY;
  }
  std::vector<size_t> order(x.size());  // the likeliest first, the lower id among equals
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  std::vector<double> p(x.size(), 0.0);
  if (how.temperature == 0.0f) {
    p[order[0]] = 1.0;
    return p;
  }
  for (size_t i = 0; i < x.size(); ++i) p[i] = std::exp((x[i] - x[order[0]]) / how.temperature);

  const auto keep_first = [&](size_t count) {
    for (size_t i = count; i < order.size(); ++i) p[order[i]] = 0.0;
  };
  if (how.top_k > 0) keep_first(static_cast<size_t>(how.top_k));
  if (how.top_p < 1.0f) {
    const double wanted = how.top_p * std::accumulate(p.begin(), p.end(), 0.0);
    size_t count = 0;
    for (double mass = 0.0; mass < wanted; mass += p[order[count++]]) {
    }
    keep_first(std::max<size_t>(count, 1));
  }
  for (double& value : p) {
    if (value < how.min_p) value = 0.0;  // the likeliest is 1 here
  }
  const double mass = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= mass;
  return p;
}

struct OptionCase {
  const char* name;
  SampleRow how;  // its edits are `edits`
  std::vector<LogitEdit> edits;
};

// Of a prompt and an output: some tokens in either, some in both.
std::vector<LogitEdit> Seen() {
  std::vector<LogitEdit> edits;
  for (int32_t token = 1; token < kVocab; token += 3) {
    edits.push_back({.token = token, .count = token % 4, .seen = true});
  }
  return edits;
}
std::vector<LogitEdit> Biased() {
  return {{.token = 3, .bias = 2.5f},
          {.token = 8, .bias = -100.0f},
          {.token = 20, .bias = 1.0f, .count = 2, .seen = true},
          {.token = 39, .bias = -0.5f, .forbidden = true}};
}

std::vector<OptionCase> Options() {
  return {
      {"Plain", {.temperature = 1.0f}, {}},
      {"Cold", {.temperature = 0.4f}, {}},
      {"Hot", {.temperature = 2.0f}, {}},
      {"TopK", {.temperature = 1.0f, .top_k = 7}, {}},
      {"TopKOfOne", {.temperature = 1.0f, .top_k = 1}, {}},
      {"TopKBeyondTheVocabulary", {.temperature = 1.0f, .top_k = 1000}, {}},
      {"TopP", {.temperature = 1.0f, .top_p = 0.8f}, {}},
      {"TopPOfAlmostNothing", {.temperature = 1.0f, .top_p = 1e-6f}, {}},
      {"MinP", {.temperature = 1.0f, .min_p = 0.1f}, {}},
      {"MinPOfOne", {.temperature = 1.0f, .min_p = 1.0f}, {}},
      {"MinPIsOfTheTempered", {.temperature = 3.0f, .min_p = 0.3f}, {}},
      {"TopKThenTopP", {.temperature = 1.0f, .top_p = 0.7f, .top_k = 12}, {}},
      {"TopPThenMinP", {.temperature = 1.3f, .top_p = 0.9f, .min_p = 0.05f}, {}},
      {"Repetition", {.temperature = 1.0f, .repetition_penalty = 1.7f}, Seen()},
      {"RepetitionThatInvites", {.temperature = 1.0f, .repetition_penalty = 0.6f}, Seen()},
      {"Presence", {.temperature = 1.0f, .presence_penalty = 1.5f}, Seen()},
      {"PresenceThatInvites", {.temperature = 1.0f, .presence_penalty = -2.0f}, Seen()},
      {"Frequency", {.temperature = 1.0f, .frequency_penalty = 0.8f}, Seen()},
      {"Bias", {.temperature = 1.0f}, Biased()},
      {"BiasComesBeforePenalties",
       {.temperature = 0.8f, .repetition_penalty = 1.5f, .presence_penalty = 0.5f},
       Biased()},
      {"All",
       {.temperature = 1.2f,
        .top_p = 0.95f,
        .top_k = 25,
        .min_p = 0.02f,
        .repetition_penalty = 1.2f,
        .presence_penalty = 0.4f,
        .frequency_penalty = 0.3f},
       Seen()},
  };
}

struct DeviceOption {
  LevelCase device;
  OptionCase option;
};
std::vector<DeviceOption> EveryOptionOnEveryDevice() {
  std::vector<DeviceOption> all;
  for (const LevelCase& device : AllCases()) {
    if (device.activations != DType::kF32) continue;  // logits are fp32 whatever that is
    for (const OptionCase& option : Options()) all.push_back({device, option});
  }
  return all;
}
void PrintTo(const DeviceOption& which, std::ostream* out) { *out << which.option.name; }

class SamplingOption : public testing::TestWithParam<DeviceOption> {
 protected:
  SampleRow How() const {
    SampleRow how = GetParam().option.how;
    how.edits = GetParam().option.edits;
    return how;
  }
  SampledToken One(const SampleRow& how) {
    SampledToken token;
    device_->Sample(logits_.rows(), {&how, 1}, {&token, 1});
    return token;
  }

  Batch logits_{1, kVocab, 11, 1.5};
  std::unique_ptr<Device> device_ = MakeDevice(GetParam().device);
};

TEST_P(SamplingOption, IsDrawnAsTheReferenceSays) {
  SampleRow how = How();
  const std::vector<double> p = Distribution(logits_, how);
  for (const uint64_t seed : {7u, 8u}) {
    how.seed = seed;
    std::vector<int> counts(kVocab);
    for (how.token_index = 0; how.token_index < kDraws; ++how.token_index) {
      ++counts[static_cast<size_t>(One(how).token)];
    }
    EXPECT_GT(ChiSquareProbability(counts, p), kUnlikely) << "seed " << seed;
  }
}

TEST_P(SamplingOption, IsGreedyAsTheReferenceSays) {
  SampleRow how = How();
  how.temperature = 0.0f;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    logits_ = Batch(1, kVocab, seed, 1.5);
    EXPECT_EQ(Distribution(logits_, how)[static_cast<size_t>(One(how).token)], 1.0) << seed;
  }
}

TEST_P(SamplingOption, LeavesTheLogitsAndTheirLogProbabilitiesAsTheyWere) {
  SampleRow how = How();
  how.top_logprobs = 3;
  const Batch before = logits_;
  const SampledToken token = One(how);
  EXPECT_TRUE(SameBits(before, logits_));
  const SampledToken plain = One({.target = token.token, .top_logprobs = 3});
  EXPECT_EQ(token.logprob, plain.logprob);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(token.top_tokens[i], plain.top_tokens[i]);
}

INSTANTIATE_TEST_SUITE_P(
    Cpu, SamplingOption, testing::ValuesIn(EveryOptionOnEveryDevice()),
    [](const testing::TestParamInfo<DeviceOption>& option) {
      return CaseName({option.param.device, option.index}) + option.param.option.name;
    });

class SamplingEdge : public testing::TestWithParam<LevelCase> {
 protected:
  int32_t Token(Batch& logits, const SampleRow& how) {
    SampledToken token;
    device_->Sample(logits.rows(), {&how, 1}, {&token, 1});
    return token.token;
  }
  std::unique_ptr<Device> device_ = MakeDevice(GetParam());
};

TEST_P(SamplingEdge, OneTokenIsLeftWhenAllOthersAreForbidden) {
  Batch logits(1, kVocab, 3, 2.0);
  std::vector<LogitEdit> edits;
  for (int32_t token = 0; token < kVocab; ++token) {
    if (token != 17) edits.push_back({.token = token, .forbidden = true});
  }
  for (const float temperature : {0.0f, 1e-30f, 1.0f, 100.0f}) {
    for (const int32_t top_k : {0, 1, 5}) {
      const SampleRow how = {
          .temperature = temperature, .top_p = 0.5f, .top_k = top_k, .min_p = 0.5f, .edits = edits};
      EXPECT_EQ(Token(logits, how), 17) << temperature << " " << top_k;
    }
  }
}

TEST_P(SamplingEdge, PenaltiesWithoutBoundStayFinite) {
  Batch logits(1, 4);
  logits.at(0, 0) = 3e38f;
  logits.at(0, 1) = -3e38f;
  logits.at(0, 2) = 1.0f;
  logits.at(0, 3) = 0.0f;
  std::vector<LogitEdit> edits;
  for (int32_t token = 0; token < 4; ++token) {
    edits.push_back({.token = token, .bias = 100.0f, .count = INT32_MAX, .seen = true});
  }
  for (const float repetition : {1e-38f, 1.0f, 3e38f}) {
    for (const float temperature : {0.0f, 1.0f}) {
      const SampleRow how = {.temperature = temperature,
                             .repetition_penalty = repetition,
                             .presence_penalty = 2.0f,
                             .frequency_penalty = 2.0f,
                             .edits = edits};
      const int32_t token = Token(logits, how);
      EXPECT_GE(token, 0);
      EXPECT_LT(token, 4);
    }
  }
}

TEST_P(SamplingEdge, ARowsEditsAreItsOwn) {
  const Batch logits(6, 300, 4, 1.0);
  std::vector<std::vector<LogitEdit>> edits(6);
  std::vector<SampleRow> rows(6);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int32_t i = 0; i < static_cast<int32_t>(r) * 20; ++i) {
      edits[r].push_back({.token = i * 2, .bias = 1.0f, .count = i % 3, .seen = i % 2 == 0});
    }
    rows[r] = {.temperature = r % 2 == 0 ? 0.0f : 1.0f,
               .repetition_penalty = 1.3f,
               .presence_penalty = 0.7f,
               .edits = edits[r],
               .seed = r};
  }
  std::vector<SampledToken> together(6);
  Batch all = logits;
  device_->Sample(all.rows(), rows, together);
  for (size_t r = 0; r < rows.size(); ++r) {
    Batch one = logits;
    SampledToken alone;
    device_->Sample(one.Part(static_cast<int64_t>(r), 1), {&rows[r], 1}, {&alone, 1});
    EXPECT_EQ(alone.token, together[r].token) << r;
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, SamplingEdge, testing::ValuesIn(AllCases()), CaseName);

TEST(ChiSquare, TailIsThatOfTheTables) {
  EXPECT_NEAR(ChiSquareTail(3.841459, 1), 0.05, 1e-6);
  EXPECT_NEAR(ChiSquareTail(18.307038, 10), 0.05, 1e-6);
  EXPECT_NEAR(ChiSquareTail(13.815511, 2), 0.001, 1e-6);
  EXPECT_NEAR(ChiSquareTail(149.449253, 100), 0.001, 1e-6);
}

TEST(ChiSquare, SeesADistributionThatIsOff) {
  EXPECT_GT(ChiSquareProbability({5010, 2990, 2000}, {0.5, 0.3, 0.2}), 0.5);
  EXPECT_LT(ChiSquareProbability({5300, 2800, 1900}, {0.5, 0.3, 0.2}), 1e-6);
  EXPECT_EQ(ChiSquareProbability({9999, 1}, {1.0, 0.0}), 0.0);
}

}  // namespace
}  // namespace conclave::worker::parity
