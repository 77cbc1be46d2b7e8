// Sampling options through the engine, and what a logit that is no number does to its own sequence
// and to nobody else's.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/check.h"
#include "tests/worker/testing/collector.h"
#include "tests/worker/testing/edited_checkpoint.h"
#include "worker/engine.h"

namespace conclave::worker {
namespace {

using scheduler::FinishReason;
using scheduler::TokenId;
using testing::Collector;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempDir;
using testing::TinyOptions;
using Answers = std::map<uint64_t, Collector::Answer>;

constexpr scheduler::Micros kNow{1'000'000};

enum class Family { kDeepSeekV2, kOlmoe };

std::unique_ptr<Engine> MakeEngine(Family family, const TinyOptions& tiny) {
  const TempDir dir;
  (family == Family::kOlmoe ? testing::WriteTinyOlmoe : testing::WriteTinyDeepSeekV2)(dir.path(), 7,
                                                                                      tiny);
  auto model = Model::Load(dir.path());
  CONCLAVE_CHECK(model.ok());
  const Engine::Options options = {.start_thread = false};
  CpuDeviceOptions device_options = CpuDeviceOptionsFor((*model)->spec, options);
  device_options.threads = 1;
  auto device = MakeCpuDevice(device_options);
  CONCLAVE_CHECK(device.ok());
  auto engine = Engine::Create(options, *model, std::move(*device));
  CONCLAVE_CHECK(engine.ok());
  return std::move(*engine);
}

Answers RunAll(Engine& engine, const std::vector<SequenceRequest>& requests) {
  const auto link = std::make_shared<Collector>();
  for (const SequenceRequest& request : requests) {
    const absl::Status status = engine.Submit(link, request);
    EXPECT_TRUE(status.ok()) << status;
  }
  for (int steps = 0; engine.Step(kNow); ++steps) {
    CONCLAVE_CHECK(steps < 20000);
  }
  return link->answers;
}

// A vocabulary so small that the reported alternatives are all of it.
constexpr int32_t kVocab = 20;
std::unique_ptr<Engine> MakeSmall() {
  return MakeEngine(Family::kOlmoe, {.vocab = kVocab, .eos = -1, .tokenizer = false});
}

// The greedy token by the reported log-probabilities, which shift all logits alike, and by what the
// options take off them.
TokenId Expected(const Logprob& reported, const SequenceRequest& request,
                 const std::vector<TokenId>& before) {
  std::vector<double> x(kVocab);
  for (const auto& [token, logprob] : reported.top) x[static_cast<size_t>(token)] = logprob;
  for (const auto& [token, bias] : request.logit_bias) x[static_cast<size_t>(token)] += bias;
  for (size_t token = 0; token < x.size(); ++token) {
    const auto count = std::count(before.begin(), before.end(), static_cast<TokenId>(token));
    x[token] -= static_cast<double>(request.frequency_penalty) * static_cast<double>(count);
    if (count > 0) x[token] -= static_cast<double>(request.presence_penalty);
  }
  return static_cast<TokenId>(std::max_element(x.begin(), x.end()) - x.begin());
}

TEST(EngineSampling, IsGreedyOverWhatPenaltiesAndBiasLeave) {
  const auto engine = MakeSmall();
  const SequenceRequest base = {.prompt = {3, 1, 4, 1, 5}, .max_tokens = 60, .logprobs = kVocab};
  std::vector<SequenceRequest> requests(5, base);
  requests[1].presence_penalty = 1.5f;
  requests[2].frequency_penalty = 0.3f;
  requests[3].logit_bias = {{7, 2.0f}, {2, -100.0f}};
  requests[4].presence_penalty = -0.4f;
  requests[4].frequency_penalty = 0.2f;
  requests[4].logit_bias = {{11, 0.5f}};
  for (size_t i = 0; i < requests.size(); ++i) requests[i].id = i;
  const Answers answers = RunAll(*engine, requests);
  for (const SequenceRequest& request : requests) {
    const Collector::Answer& answer = answers.at(request.id);
    std::vector<TokenId> before;
    ASSERT_EQ(answer.tokens.size(), 60u);
    for (size_t i = 0; i < answer.tokens.size(); ++i) {
      ASSERT_EQ(answer.logprobs[i].top.size(), size_t{kVocab});
      ASSERT_EQ(answer.tokens[i], Expected(answer.logprobs[i], request, before)) << request.id;
      before.push_back(answer.tokens[i]);
    }
    if (request.id > 0) {
      EXPECT_NE(answer.tokens, answers.at(0).tokens) << "it changes nothing";
    }
  }
}

TEST(EngineSampling, ThePromptCountsForRepetitionAlone) {
  const auto engine = MakeSmall();
  int repeated = 0;
  for (TokenId last = 0; last < kVocab; ++last) {
    std::vector<SequenceRequest> requests(3, {.prompt = {3, 1, last}, .max_tokens = 1});
    for (size_t i = 0; i < requests.size(); ++i) requests[i].id = i;
    requests[1].presence_penalty = requests[1].frequency_penalty = 2.0f;
    requests[2].repetition_penalty = 1e30f;  // leaves nothing of a positive logit
    const Answers answers = RunAll(*engine, requests);
    EXPECT_EQ(answers.at(1).tokens, answers.at(0).tokens);
    const auto& prompt = requests[0].prompt;
    EXPECT_THAT(prompt, Not(::testing::Contains(answers.at(2).tokens[0])));
    repeated +=
        static_cast<int>(std::count(prompt.begin(), prompt.end(), answers.at(0).tokens[0]) > 0);
  }
  EXPECT_GT(repeated, 0) << "no prompt shows a difference";
}

TEST(EngineSampling, NothingStopsTheFirstTokens) {
  const auto engine = MakeSmall();
  std::vector<SequenceRequest> requests;
  for (uint64_t id = 0; id < 4; ++id) {
    requests.push_back({.id = id,
                        .prompt = {3, 1, 4},
                        .temperature = id < 2 ? 0.0f : 1.0f,
                        .seed = id,
                        .logit_bias = {{9, 100.0f}},
                        .max_tokens = 12,
                        .min_tokens = id % 2 == 0 ? 5 : 12,
                        .stop_tokens = {9, 2}});
  }
  const Answers answers = RunAll(*engine, requests);
  for (const uint64_t id : {0u, 2u}) {
    std::vector<TokenId> tokens = answers.at(id).tokens;
    ASSERT_EQ(tokens.size(), 6u);
    EXPECT_EQ(tokens.back(), 9);
    tokens.pop_back();
    EXPECT_THAT(tokens, Each(Not(9)));
    EXPECT_THAT(tokens, Each(Not(2)));
    EXPECT_EQ(answers.at(id).end->reason, FinishReason::kStop);
  }
  for (const uint64_t id : {1u, 3u}) {
    EXPECT_EQ(answers.at(id).tokens.size(), 12u);
    EXPECT_THAT(answers.at(id).tokens, Each(Not(9)));
    EXPECT_EQ(answers.at(id).end->reason, FinishReason::kLength);
  }
}

class NonFinite : public ::testing::TestWithParam<std::pair<Family, float>> {
 protected:
  static constexpr TokenId kBad = 200;  // its embedding is not finite

  static TinyOptions Broken() {
    TinyOptions options;
    options.edit = [](nlohmann::json&, std::vector<testing::TinyTensor>& tensors) {
      testing::TinyTensor& table = testing::Named(tensors, "model.embed_tokens.weight");
      const size_t row = table.bytes.size() / 260;
      const std::vector<float> bad(row / sizeof(float), GetParam().second);
      table.bytes.replace(kBad * row, row, testing::Encode(DType::kF32, bad));
    };
    return options;
  }
  static std::vector<SequenceRequest> Good() {
    std::vector<SequenceRequest> requests;
    for (uint64_t id = 0; id < 8; ++id) {
      SequenceRequest request = {.id = id, .max_tokens = 10, .logprobs = 2};
      for (uint64_t i = 0; i < 5 + id * 9; ++i) {
        request.prompt.push_back(static_cast<TokenId>((id * 31 + i * 7) % 199));
      }
      request.temperature = id % 2 == 0 ? 0.0f : 0.7f;
      request.seed = id;
      request.logit_bias = {{kBad, -100.0f}};
      requests.push_back(request);
    }
    return requests;
  }
};

TEST_P(NonFinite, LogitsFailTheirOwnSequenceAndNoOther) {
  const auto engine = MakeEngine(GetParam().first, Broken());
  Answers expected;
  for (const SequenceRequest& request : Good()) expected.merge(RunAll(*engine, {request}));

  std::vector<SequenceRequest> requests = Good();
  SequenceRequest bad = {.id = 100, .prompt = {1, 2, kBad, 3}, .max_tokens = 5};
  requests.insert(requests.begin() + 2, bad);
  bad = {.id = 101, .prompt = std::vector<TokenId>(40, kBad), .max_tokens = 5};
  requests.push_back(bad);
  // This one gets to it by itself, and was told a token by then.
  bad = {.id = 102, .prompt = {1, 2}, .logit_bias = {{kBad, 100.0f}}, .max_tokens = 5};
  requests.push_back(bad);
  Answers answers = RunAll(*engine, requests);
  for (const uint64_t id : {100u, 101u, 102u}) {
    const absl::Status& status = answers.at(id).end->status;
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << id;
    EXPECT_THAT(std::string(status.message()), HasSubstr("numerical_error")) << id;
    EXPECT_EQ(answers.at(id).tokens.size(), id == 102 ? 1u : 0u) << id;
    answers.erase(id);
  }
  EXPECT_TRUE(answers == expected) << "beside it";
  EXPECT_TRUE(RunAll(*engine, Good()) == expected) << "where it was in the cache";
  EXPECT_EQ(engine->stats().planner.blocks_used, 0);
  EXPECT_EQ(engine->stats().ended_error, 3u);
}

INSTANTIATE_TEST_SUITE_P(
    Families, NonFinite,
    ::testing::Values(std::pair(Family::kOlmoe, std::numeric_limits<float>::quiet_NaN()),
                      std::pair(Family::kOlmoe, std::numeric_limits<float>::infinity()),
                      std::pair(Family::kDeepSeekV2, std::numeric_limits<float>::quiet_NaN()),
                      std::pair(Family::kDeepSeekV2, -std::numeric_limits<float>::infinity())),
    [](const auto& one) {
      return std::string(one.param.first == Family::kOlmoe ? "Olmoe" : "DeepSeekV2") +
             (std::isnan(one.param.second) ? "Nan" : "Infinity");
    });

}  // namespace
}  // namespace conclave::worker
