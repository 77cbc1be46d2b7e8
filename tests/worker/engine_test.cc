// The engine from outside: sequences in, events out. Steps are called by hand; no thread, no clock.

#include "worker/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/check.h"
#include "tests/worker/testing/collector.h"
#include "tests/worker/testing/edited_checkpoint.h"
#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::worker {
namespace {

using scheduler::FinishReason;
using scheduler::Micros;
using scheduler::TokenId;
using testing::Collector;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::TinyOptions;

constexpr Micros kNow{1'000'000};

enum class Family { kDeepSeekV2, kOlmoe };

struct EngineUnderTest {
  Family family = Family::kDeepSeekV2;
  TinyOptions tiny;
  Engine::Options engine;
  int threads = 1;
  std::string level;
};

std::unique_ptr<Engine> MakeEngine(EngineUnderTest setup = {}) {
  const TempDir dir;
  if (setup.family == Family::kDeepSeekV2) {
    testing::WriteTinyDeepSeekV2(dir.path(), 7, setup.tiny);
  } else {
    testing::WriteTinyOlmoe(dir.path(), 7, setup.tiny);
  }
  auto model = Model::Load(dir.path());
  CONCLAVE_CHECK(model.ok());
  setup.engine.start_thread = false;
  CpuDeviceOptions options = CpuDeviceOptionsFor((*model)->spec, setup.engine);
  options.threads = setup.threads;
  options.level = setup.level;
  auto device = MakeCpuDevice(options);
  CONCLAVE_CHECK(device.ok());
  auto engine = Engine::Create(setup.engine, *model, std::move(*device));
  CONCLAVE_CHECK(engine.ok());
  return std::move(*engine);
}

// A prompt of `length` tokens, different for every `which`.
std::vector<TokenId> Prompt(int length, int which) {
  std::vector<TokenId> tokens;
  uint64_t state = 0x9E3779B97F4A7C15u * static_cast<uint64_t>(which + 1);
  for (int i = 0; i < length; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<TokenId>((state >> 33) % 256));
  }
  return tokens;
}

// One of 64 different requests: lengths, greedy and seeded, with and without log-probabilities and
// routing.
SequenceRequest Mixed(int i) {
  SequenceRequest r;
  r.id = static_cast<uint64_t>(i);
  r.prompt = Prompt(1 + (i * 37) % 150, i);
  r.max_tokens = 3 + i % 12;
  if (i % 2 == 1) {
    r.temperature = 0.5f + 0.1f * static_cast<float>(i % 7);
    r.top_p = i % 4 == 1 ? 0.9f : 1.0f;
    r.top_k = i % 3 == 0 ? 20 : 0;
    r.seed = static_cast<uint64_t>(i) * 1000003u;
  }
  if (i % 7 == 0) r.min_p = 0.02f;
  if (i % 4 == 2) {
    r.repetition_penalty = 1.0f + 0.1f * static_cast<float>(i % 5);
    r.frequency_penalty = 0.25f * static_cast<float>(i % 3);
  }
  if (i % 5 == 3) {
    r.presence_penalty = 0.5f;
    r.logit_bias = {{i, 1.5f}, {257, 3.0f}};
    r.stop_tokens = {257};
    r.min_tokens = r.max_tokens / 2;
  }
  r.logprobs = i % 5;
  r.prompt_logprobs = i % 3 == 0;
  r.routing = i % 4 == 0;
  return r;
}

void RunUntilIdle(Engine& engine) {
  for (int steps = 0; engine.Step(kNow); ++steps) {
    ASSERT_LT(steps, 20000) << "the engine does not come to an end";
  }
}

std::map<uint64_t, Collector::Answer> AnswersTogether(Engine& engine) {
  auto link = std::make_shared<Collector>();
  for (int i = 0; i < 64; ++i) EXPECT_TRUE(engine.Submit(link, Mixed(i)).ok());
  RunUntilIdle(engine);
  return link->answers;
}

std::map<uint64_t, Collector::Answer> AnswersOneByOne(Engine& engine) {
  auto link = std::make_shared<Collector>();
  for (int i = 0; i < 64; ++i) {
    EXPECT_TRUE(engine.Submit(link, Mixed(i)).ok());
    RunUntilIdle(engine);
  }
  return link->answers;
}

TEST(Engine, StreamsAGreedyAnswerAndEndsByLength) {
  auto engine = MakeEngine();
  auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = Prompt(5, 0), .max_tokens = 4}).ok());
  RunUntilIdle(*engine);
  const Collector::Answer& answer = link->answers.at(1);
  EXPECT_EQ(answer.tokens.size(), 4u);
  ASSERT_TRUE(answer.end.has_value());
  EXPECT_TRUE(answer.end->status.ok());
  EXPECT_EQ(answer.end->reason, FinishReason::kLength);
  EXPECT_EQ(link->steps, 4) << "one message a step";
  EXPECT_EQ(engine->stats().planner.blocks_used, 0);
}

TEST(Engine, AStopTokenEndsTheAnswer) {
  auto engine = MakeEngine();
  auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = Prompt(5, 0), .max_tokens = 8}).ok());
  RunUntilIdle(*engine);
  const std::vector<TokenId> free_run = link->answers.at(1).tokens;
  const TokenId stop = free_run[2];
  ASSERT_TRUE(
      engine
          ->Submit(link, {.id = 2, .prompt = Prompt(5, 0), .max_tokens = 8, .stop_tokens = {stop}})
          .ok());
  RunUntilIdle(*engine);
  const Collector::Answer& answer = link->answers.at(2);
  const auto first = std::find(free_run.begin(), free_run.end(), stop);
  EXPECT_EQ(answer.tokens, std::vector<TokenId>(free_run.begin(), first + 1));
  EXPECT_EQ(answer.end->reason, FinishReason::kStop);
}

TEST(Engine, ScoringReportsEveryPromptPositionOnce) {
  auto engine = MakeEngine(
      {.engine = {.planner = {.step_tokens = 64, .prefill_chunk = 16}, .logit_rows = 5}});
  auto link = std::make_shared<Collector>();
  const std::vector<TokenId> prompt = Prompt(100, 3);
  ASSERT_TRUE(
      engine->Submit(link, {.id = 1, .prompt = prompt, .prompt_logprobs = true, .routing = true})
          .ok());
  RunUntilIdle(*engine);
  const Collector::Answer& answer = link->answers.at(1);
  ASSERT_EQ(answer.prompt_logprobs.size(), prompt.size() - 1);
  for (size_t i = 0; i + 1 < prompt.size(); ++i)
    EXPECT_EQ(answer.prompt_logprobs[i].token, prompt[i + 1]);
  EXPECT_EQ(answer.end->reason, FinishReason::kScored);
  EXPECT_EQ(answer.routing.tokens, 100);
  EXPECT_EQ(answer.routing.slots.size(), 100u * 2 * 2) << "tokens, MoE layers, top k";
}

TEST(Engine, HasLogitRowsForAllThatDecodeButNoMoreThanAProductTakesAtOnce) {
  const auto rows = [](int32_t max_running) {
    return LogitRowsFor({.planner = {.max_running = max_running}, .logit_rows = 64});
  };
  EXPECT_EQ(rows(1), 64);
  EXPECT_EQ(rows(65), 65);
  EXPECT_EQ(rows(256), 256);
  EXPECT_EQ(rows(257), 256);
}

TEST(Engine, LongReportsComeInSmallChunksAndSayTheSame) {
  const auto score = [](int32_t report_bytes, bool at_once = false, int32_t bytes_at_once = 1) {
    auto engine = MakeEngine(
        {.engine = {.report_bytes = report_bytes, .report_bytes_at_once = bytes_at_once}});
    auto link = std::make_shared<Collector>();
    EXPECT_TRUE(engine
                    ->Submit(link, {.id = 1,
                                    .prompt = Prompt(100, 3),
                                    .logprobs = 20,
                                    .prompt_logprobs = true,
                                    .routing = true,
                                    .reads_at_once = at_once})
                    .ok());
    RunUntilIdle(*engine);
    return std::pair(engine->stats().steps, link->answers.at(1));
  };
  const auto [few_steps, whole] = score(1 << 20);
  const auto [many_steps, cut] = score(1);
  EXPECT_EQ(few_steps, 1u);
  EXPECT_EQ(many_steps, 100u);
  EXPECT_EQ(score(1, /*at_once=*/true, 1 << 20).first, 1u) << "nobody slow reads them";
  EXPECT_EQ(score(1 << 20, /*at_once=*/true).first, 100u) << "which has a limit too";
  EXPECT_EQ(cut.routing.slots, whole.routing.slots);
  ASSERT_EQ(cut.prompt_logprobs.size(), whole.prompt_logprobs.size());
  for (size_t i = 0; i < whole.prompt_logprobs.size(); ++i)
    EXPECT_EQ(cut.prompt_logprobs[i].logprob, whole.prompt_logprobs[i].logprob);
}

struct ExactCase {
  Family family;
  DType type;
  const char* name;
};

class EngineExactness : public ::testing::TestWithParam<ExactCase> {};

TEST_P(EngineExactness, AnswersDoNotDependOnTheCompanyTheChunkTheThreadsOrPreemption) {
  for (const std::string& level : CpuLevels()) {
    const EngineUnderTest base{
        .family = GetParam().family, .tiny = {.type = GetParam().type}, .level = level};
    const auto expected = AnswersOneByOne(*MakeEngine(base));
    ASSERT_EQ(expected.size(), 64u);
    for (const int chunk : {16, 64, 512}) {
      for (const int threads : {1, 2}) {
        EngineUnderTest setup = base;
        setup.threads = threads;
        setup.engine.planner.prefill_chunk = chunk;
        EXPECT_TRUE(AnswersTogether(*MakeEngine(setup)) == expected)
            << level << " chunk " << chunk << " threads " << threads;
      }
    }
    // A pool so small that sequences are preempted and recomputed.
    EngineUnderTest tight = base;
    const Engine::Stats roomy = MakeEngine(base)->stats();
    const int64_t position_bytes = roomy.kv_bytes / roomy.planner.blocks / roomy.kv_block_size;
    tight.engine.planner.block_size = 4;
    tight.engine.kv_bytes = position_bytes * 240;
    auto engine = MakeEngine(tight);
    EXPECT_TRUE(AnswersTogether(*engine) == expected) << level << " with preemption";
    EXPECT_GT(engine->stats().planner.preemptions, 0u);
    EXPECT_GT(engine->stats().recomputed_tokens, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, EngineExactness,
    ::testing::Values(ExactCase{Family::kDeepSeekV2, DType::kF32, "DeepSeekV2F32"},
                      ExactCase{Family::kDeepSeekV2, DType::kBF16, "DeepSeekV2BF16"},
                      ExactCase{Family::kOlmoe, DType::kF32, "OlmoeF32"},
                      ExactCase{Family::kOlmoe, DType::kBF16, "OlmoeBF16"}),
    [](const auto& param_info) { return param_info.param.name; });

// Weights are not read when a model is loaded, so such values are met only when they are used.
TEST(Engine, OnlyRequestsThatMeetAWeightThatIsNoNumberFail) {
  constexpr TokenId kBroken = 9;
  auto engine = MakeEngine({.tiny = {.edit = [](auto&, std::vector<testing::TinyTensor>& tensors) {
                              std::string& bytes =
                                  testing::Named(tensors, "model.embed_tokens.weight").bytes;
                              const std::string row =
                                  testing::Encode(DType::kF32, std::vector<float>(32, NAN));
                              bytes.replace(kBroken * row.size(), row.size(), row);
                            }}});
  auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = {1, kBroken, 2}, .max_tokens = 4}).ok());
  ASSERT_TRUE(engine->Submit(link, {.id = 2, .prompt = {1, 2, 3}, .max_tokens = 4}).ok());
  RunUntilIdle(*engine);
  const absl::Status broken = link->answers.at(1).end->status;
  EXPECT_EQ(broken.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(broken.message()), HasSubstr("numerical_error"));
  EXPECT_TRUE(link->answers.at(1).tokens.empty());
  EXPECT_TRUE(link->answers.at(2).end->status.ok());
  EXPECT_EQ(link->answers.at(2).tokens.size(), 4u);
}

TEST(Engine, ACancelledSequenceGivesItsBlocksBackAtTheNextStep) {
  auto engine = MakeEngine();
  auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = Prompt(50, 0), .max_tokens = 500}).ok());
  engine->Step(kNow);
  engine->Step(kNow);
  EXPECT_GT(engine->stats().planner.blocks_used, 0);
  engine->Cancel(link.get(), 1);
  engine->Step(kNow);
  EXPECT_EQ(engine->stats().planner.blocks_used, 0);
  EXPECT_EQ(link->answers.at(1).end->status.code(), absl::StatusCode::kCancelled);
}

TEST(Engine, ADeadlineThatPassedEndsTheSequence) {
  auto engine = MakeEngine();
  auto link = std::make_shared<Collector>();
  SequenceRequest request{
      .id = 1, .prompt = Prompt(5, 0), .max_tokens = 500, .deadline = kNow + Micros(10)};
  ASSERT_TRUE(engine->Submit(link, request).ok());
  engine->Step(kNow);
  engine->Step(kNow + Micros(11));
  EXPECT_EQ(link->answers.at(1).end->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engine->stats().planner.blocks_used, 0);
}

TEST(Engine, APausedSequenceWaitsAndGoesOnWhereItWas) {
  auto engine = MakeEngine();
  auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = Prompt(5, 0), .max_tokens = 6}).ok());
  engine->Step(kNow);
  engine->SetPaused(link.get(), 1, true);
  EXPECT_FALSE(engine->Step(kNow));
  EXPECT_EQ(link->answers.at(1).tokens.size(), 1u);
  engine->SetPaused(link.get(), 1, false);
  RunUntilIdle(*engine);
  EXPECT_EQ(link->answers.at(1).tokens.size(), 6u);
}

TEST(Engine, AClosedLinkIsToldNothingMore) {
  auto engine = MakeEngine();
  auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = Prompt(5, 0), .max_tokens = 60}).ok());
  engine->Step(kNow);
  const int told = link->steps;
  engine->CloseLink(link.get());
  engine->Step(kNow);
  EXPECT_EQ(link->steps, told);
  EXPECT_EQ(engine->stats().planner.blocks_used, 0);
  EXPECT_EQ(link.use_count(), 1) << "the engine lets go of the link";
}

TEST(Engine, DrainingRefusesTheNewAndFinishesTheOld) {
  auto engine = MakeEngine();
  auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = Prompt(5, 0), .max_tokens = 6}).ok());
  engine->Drain();
  EXPECT_FALSE(engine->drained());
  EXPECT_FALSE(engine->WaitDrained(std::chrono::milliseconds(1)));
  EXPECT_EQ(engine->Submit(link, {.id = 2, .prompt = Prompt(5, 0), .max_tokens = 6}).code(),
            absl::StatusCode::kUnavailable);
  RunUntilIdle(*engine);
  EXPECT_TRUE(engine->drained());
  EXPECT_TRUE(engine->WaitDrained(std::chrono::milliseconds(0)));
  EXPECT_EQ(link->answers.at(1).tokens.size(), 6u);
}

TEST(Engine, RefusesAtItsEdgesAndNamesThem) {
  auto engine = MakeEngine(
      {.engine = {.planner = {.max_running = 2, .max_waiting = 1}, .context_limit = 64}});
  auto link = std::make_shared<Collector>();
  const auto refusal = [&](SequenceRequest r) {
    return std::string(engine->Submit(link, std::move(r)).message());
  };
  EXPECT_THAT(refusal({.id = 1, .prompt = Prompt(65, 0)}), HasSubstr("65 tokens, the limit is 64"));
  EXPECT_THAT(refusal({.id = 1, .prompt = Prompt(60, 0), .max_tokens = 5}),
              HasSubstr("limit of 64"));
  for (uint64_t id = 1; id <= 3; ++id) {
    EXPECT_TRUE(engine->Submit(link, {.id = id, .prompt = Prompt(59, 0), .max_tokens = 5}).ok())
        << id;
  }
  EXPECT_EQ(engine->Submit(link, {.id = 4, .prompt = {1}}).code(),
            absl::StatusCode::kResourceExhausted);
  RunUntilIdle(*engine);
  EXPECT_TRUE(engine->Submit(link, {.id = 4, .prompt = {1}, .max_tokens = 1}).ok());
  EXPECT_EQ(engine->Submit(link, {.id = 4, .prompt = {1}, .max_tokens = 1}).code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(Engine, ItsThreadEndsWhatIsLeftWhenDestroyed) {
  const TempDir dir;
  testing::WriteTinyDeepSeekV2(dir.path(), 7);
  auto model = Model::Load(dir.path());
  ASSERT_TRUE(model.ok()) << model.status();
  auto device = MakeCpuDevice(CpuDeviceOptionsFor((*model)->spec, {}));
  ASSERT_TRUE(device.ok()) << device.status();
  auto engine = Engine::Create({}, *model, std::move(*device));
  ASSERT_TRUE(engine.ok()) << engine.status();
  auto link = std::make_shared<Collector>();
  ASSERT_TRUE((*engine)->Submit(link, {.id = 1, .prompt = Prompt(5, 0), .max_tokens = 900}).ok());
  engine->reset();
  ASSERT_TRUE(link->answers.at(1).end.has_value());
}

}  // namespace
}  // namespace conclave::worker
