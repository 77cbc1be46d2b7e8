// Guesses at next tokens, on every checkpoint of tests/reference and with them on every family:
// answers are those of an engine that makes none, whatever is guessed, cut, preempted, paused or
// found in the cache behind it; and what repeats itself takes fewer steps.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/check.h"
#include "tests/worker/testing/collector.h"
#include "tests/worker/testing/give_all.h"
#include "tests/worker/testing/many_requests.h"
#include "tests/worker/testing/stepped_engine.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

using scheduler::FinishReason;
using scheduler::TokenId;
using testing::Checkpoints;
using testing::Collector;
using testing::Folder;
using testing::kBlock;
using testing::kNow;
using testing::MakeSteppedEngine;
using testing::RunUntilIdle;
using testing::TempDir;
using testing::WorkerGroup;
using Answers = std::map<uint64_t, Collector::Answer>;

Engine::Options Speculating(int32_t tokens = 16, int32_t ngram = 1) {
  Engine::Options options;
  options.speculation.tokens = tokens;
  options.lookup.ngram = ngram;
  return options;
}

// Phrases that come again and again, every kind of option, ends of every kind.
SequenceRequest Request(int i, int32_t vocab) {
  SequenceRequest request;
  request.id = static_cast<uint64_t>(i);
  const auto token = [&](int n) { return static_cast<TokenId>((n * 7919 + i * 31) % vocab); };
  for (int t = 0; t < 3 + (i * 13) % 40; ++t) request.prompt.push_back(token(t % (2 + i % 5)));
  request.max_tokens = 1 + (i * 11) % 40;
  if (i % 2 == 1) {
    request.temperature = i % 4 == 1 ? 0.2f : 0.9f;
    request.seed = static_cast<uint64_t>(i);
  }
  if (i % 3 == 1) request.logit_bias = {{token(1), 3.0f}, {token(5), 2.0f}};
  if (i % 6 == 2) request.frequency_penalty = 0.1f;
  if (i % 6 == 4) request.repetition_penalty = 1.05f;
  if (i % 4 == 3) {
    for (int t = 0; t < 20; ++t) request.stop_tokens.push_back(token(t * 3 + 1));
    request.min_tokens = i % 8 == 3 ? std::min(6, request.max_tokens) : 0;
  }
  request.logprobs = i % 3;
  request.prompt_logprobs = i % 7 == 5;
  request.routing = i % 5 == 4;
  return request;
}
constexpr int kRequests = 24;

// Behind what was said, and a token more.
SequenceRequest Continued(const SequenceRequest& request, const Collector::Answer& answer) {
  SequenceRequest next = request;
  next.id += kRequests;
  next.prompt.insert(next.prompt.end(), answer.tokens.begin(), answer.tokens.end());
  next.prompt.push_back(next.prompt.front());
  return next;
}

Answers OneByOne(Engine& engine, int32_t vocab) {
  const auto link = std::make_shared<Collector>();
  for (int i = 0; i < kRequests; ++i) {
    const SequenceRequest request = Request(i, vocab);
    EXPECT_TRUE(engine.Submit(link, request).ok());
    RunUntilIdle(engine);
    EXPECT_TRUE(engine.Submit(link, Continued(request, link->answers.at(request.id))).ok());
    RunUntilIdle(engine);
  }
  EXPECT_EQ(engine.stats().planner.blocks_used, 0);
  return link->answers;
}

// `expected`: for what goes on behind an answer.
Answers Together(Engine& engine, int32_t vocab, const Answers& expected) {
  const auto link = std::make_shared<Collector>();
  for (int i = 0; i < kRequests; ++i) {
    const SequenceRequest request = Request(i, vocab);
    EXPECT_TRUE(engine.Submit(link, request).ok());
    EXPECT_TRUE(engine.Submit(link, Continued(request, expected.at(request.id))).ok());
    if (i % 5 == 0) engine.Step(kNow);
  }
  RunUntilIdle(engine);
  EXPECT_EQ(engine.stats().planner.blocks_used, 0);
  return link->answers;
}

// With pauses, and beside others that are cancelled.
Answers Disturbed(Engine& engine, int32_t vocab, const Answers& expected) {
  const auto link = std::make_shared<Collector>();
  const auto others = std::make_shared<Collector>();
  for (int i = 0; i < kRequests; ++i) {
    const SequenceRequest request = Request(i, vocab);
    EXPECT_TRUE(engine.Submit(link, request).ok());
    EXPECT_TRUE(engine.Submit(link, Continued(request, expected.at(request.id))).ok());
    EXPECT_TRUE(engine.Submit(others, request).ok());
    if (i % 3 == 1) engine.SetPaused(link.get(), request.id, true);
    engine.Step(kNow);
    engine.Cancel(others.get(), request.id / 2);
  }
  engine.CloseLink(others.get());
  for (int i = 0; i < kRequests; ++i) {
    engine.SetPaused(link.get(), static_cast<uint64_t>(i), false);
    engine.Step(kNow);
  }
  RunUntilIdle(engine);
  EXPECT_EQ(engine.stats().planner.blocks_used, 0);
  return link->answers;
}

// Of any answer: what it says, and how it ends.
::testing::AssertionResult Same(const Answers& a, const Answers& b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << "not all were answered";
  for (const auto& [id, answer] : a) {
    const Collector::Answer& other = b.at(id);
    if (!(answer == other)) return ::testing::AssertionFailure() << id << " says something else";
    if (!answer.end || !other.end || answer.end->status != other.end->status ||
        answer.end->reason != other.end->reason) {
      return ::testing::AssertionFailure() << id << " ends otherwise";
    }
  }
  return ::testing::AssertionSuccess();
}

class SpeculationOn : public ::testing::TestWithParam<std::string> {};

TEST_P(SpeculationOn, ChangesNoBitOfAnyAnswer) {
  const auto model = Model::Load(Folder() + "/" + GetParam());
  ASSERT_TRUE(model.ok()) << model.status();
  const int32_t vocab = (*model)->spec.vocab;
  const auto without = MakeSteppedEngine(*model, {.prefix_reuse = false});
  const Answers expected = OneByOne(*without, vocab);
  EXPECT_EQ(without->stats().speculated_tokens, 0u);

  const auto with = MakeSteppedEngine(*model, Speculating());
  EXPECT_TRUE(Same(OneByOne(*with, vocab), expected)) << "one by one";
  const Engine::Stats stats = with->stats();
  EXPECT_GT(stats.speculated_accepted, 0u);
  EXPECT_GT(stats.speculated_tokens, stats.speculated_accepted);
  EXPECT_EQ(stats.generated_tokens, without->stats().generated_tokens);
  EXPECT_LT(stats.steps, without->stats().steps);
  EXPECT_TRUE(Same(OneByOne(*with, vocab), expected)) << "once more, all of it cached";

  for (const int32_t tokens : {1, 5}) {
    Engine::Options options = Speculating(tokens, 2);
    options.planner.prefill_chunk = 7;
    options.logit_rows = 3;  // a sequence's rows are not all in one tile
    options.planner.step_proposals = 100;
    const auto engine = MakeSteppedEngine(*model, options);
    EXPECT_TRUE(Same(Together(*engine, vocab, expected), expected)) << tokens << " at most";
    EXPECT_GT(engine->stats().speculated_accepted, 0u);
  }
  const int64_t block_bytes = stats.kv_bytes / stats.planner.blocks;
  Engine::Options tight = Speculating();
  tight.kv_bytes = block_bytes * 24;
  const auto preempting = MakeSteppedEngine(*model, tight);
  EXPECT_TRUE(Same(Together(*preempting, vocab, expected), expected)) << "with preemption";
  EXPECT_GT(preempting->stats().planner.preemptions, 0u);
  EXPECT_GT(preempting->stats().speculated_accepted, 0u);
  const auto disturbed = MakeSteppedEngine(*model, Speculating(7));
  EXPECT_TRUE(Same(Disturbed(*disturbed, vocab, expected), expected)) << "with pauses and cancels";
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, SpeculationOn, ::testing::ValuesIn(Checkpoints()),
                         [](const auto& one) {
                           std::string name = one.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

std::shared_ptr<const Model> TinyModel() {
  const TempDir dir;
  testing::WriteTinyOlmoe(dir.path(), 7, {.vocab = 20, .eos = -1, .tokenizer = false});
  auto model = Model::Load(dir.path());
  CONCLAVE_CHECK(model.ok());
  return *model;
}

// Says token 9 and nothing else.
SequenceRequest Monotone(int32_t max_tokens) {
  return {.id = 1, .prompt = {9, 9, 9, 9}, .logit_bias = {{9, 100.0f}}, .max_tokens = max_tokens};
}

TEST(Speculation, TakesFewerStepsWhereTextRepeatsItself) {
  const auto engine = MakeSteppedEngine(TinyModel(), Speculating(8, 3));
  const auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, Monotone(100)).ok());
  RunUntilIdle(*engine);
  EXPECT_EQ(link->answers.at(1).tokens, std::vector<TokenId>(100, 9));
  // The prompt and a token; 3, 5 and then 9 in a step.
  EXPECT_EQ(engine->stats().steps, 3u + 11u);
  EXPECT_EQ(engine->stats().generated_tokens, 100u);
  EXPECT_EQ(engine->stats().speculated_tokens, engine->stats().speculated_accepted);
}

TEST(Speculation, EndsWhereMaxTokensSays) {
  const auto model = TinyModel();
  for (int32_t max_tokens = 1; max_tokens <= 30; ++max_tokens) {
    const auto engine = MakeSteppedEngine(model, Speculating());
    const auto link = std::make_shared<Collector>();
    ASSERT_TRUE(engine->Submit(link, Monotone(max_tokens)).ok());
    RunUntilIdle(*engine);
    EXPECT_EQ(link->answers.at(1).tokens.size(), static_cast<size_t>(max_tokens));
    EXPECT_EQ(link->answers.at(1).end->reason, FinishReason::kLength);
  }
}

TEST(Speculation, FillsTheContextToItsLastPosition) {
  Engine::Options options = Speculating();
  options.context_limit = 24;
  options.planner.max_running = 1;  // the pool has three blocks
  const auto engine = MakeSteppedEngine(TinyModel(), options);
  const auto link = std::make_shared<Collector>();
  ASSERT_EQ(engine->stats().planner.blocks, 3);
  ASSERT_TRUE(engine->Submit(link, Monotone(20)).ok());
  RunUntilIdle(*engine);
  EXPECT_EQ(link->answers.at(1).tokens.size(), 20u);
}

// The first tokens are all guessed right, and one of them is the end.
TEST(Speculation, TellsNothingBehindAStopToken) {
  const auto model = TinyModel();
  for (int32_t min_tokens = 0; min_tokens <= 24; ++min_tokens) {
    // 9 cannot be said before the tokens are enough, then nothing else is; 4 comes next.
    SequenceRequest request = {.id = 1,
                               .prompt = {4, 4, 4, 4, 4, 9, 9, 9},
                               .logit_bias = {{9, 100.0f}, {4, 50.0f}},
                               .max_tokens = 40,
                               .min_tokens = min_tokens,
                               .stop_tokens = {9}};
    const auto engine = MakeSteppedEngine(model, Speculating(16, 2));
    const auto link = std::make_shared<Collector>();
    ASSERT_TRUE(engine->Submit(link, request).ok());
    RunUntilIdle(*engine);
    std::vector<TokenId> expected(static_cast<size_t>(min_tokens), 4);
    expected.push_back(9);
    EXPECT_EQ(link->answers.at(1).tokens, expected);
    EXPECT_EQ(link->answers.at(1).end->reason, FinishReason::kStop);
  }
}

TEST(Speculation, ReportsNoMoreRoutingInAStepThanItMay) {
  const auto model = TinyModel();
  const int64_t token_bytes = model->spec.gate.top_k *
                              static_cast<int64_t>(model->spec.layers.size()) *
                              static_cast<int64_t>(sizeof(uint16_t) + sizeof(float));
  class Largest final : public Link {
   public:
    void OnStep(std::vector<SequenceEvent> events) override {
      for (const SequenceEvent& event : events) tokens = std::max(tokens, event.routing.tokens);
    }
    int32_t tokens = 0;
  };
  for (const int32_t most : {1, 4}) {
    Engine::Options options = Speculating();
    options.report_bytes = static_cast<int32_t>(token_bytes * most);
    const auto engine = MakeSteppedEngine(model, options);
    const auto link = std::make_shared<Largest>();
    SequenceRequest request = Monotone(60);
    request.routing = true;
    ASSERT_TRUE(engine->Submit(link, request).ok());
    RunUntilIdle(*engine);
    EXPECT_EQ(link->tokens, most);
  }
}

TEST(Speculation, HasALimit) {
  const auto model = TinyModel();
  const auto create = [&](int32_t tokens, int32_t ngram) {
    Engine::Options options = Speculating(tokens, ngram);
    options.start_thread = false;
    return Engine::Create(options, model, *MakeCpuDevice(CpuDeviceOptionsFor(model->spec, options)))
        .status();
  };
  EXPECT_TRUE(create(16, 1).ok());
  for (const auto& [tokens, ngram] : {std::pair(17, 1), std::pair(-1, 1), std::pair(4, 0)}) {
    EXPECT_EQ(create(tokens, ngram).code(), absl::StatusCode::kInvalidArgument) << tokens;
  }
}

// Only guesses that are wrong go to an expert that nobody has.
TEST(Speculation, WaitsForNoExpertThatOnlyGuessesNeed) {
  const auto model = TinyModel();
  SequenceRequest request = {.id = 1, .prompt = {3, 1, 4, 3, 1, 5, 3, 1}, .max_tokens = 40};
  request.logprobs = 1;
  const auto used = [&](Engine& engine, const std::shared_ptr<Collector>& link) {
    EXPECT_TRUE(engine.Submit(link, request).ok());
    RunUntilIdle(engine);
    return engine.stats().expert_tokens;
  };
  int cases = 0;
  for (TokenId first = 0; first < 20; ++first) {
    request.prompt.front() = first;
    const auto expected = std::make_shared<Collector>();
    const auto without = used(*MakeSteppedEngine(model, {}), expected);
    const auto with = used(*MakeSteppedEngine(model, Speculating()), std::make_shared<Collector>());
    for (size_t expert = 0; expert < with.size(); ++expert) {
      if (without[expert] > 0 || with[expert] == 0) continue;
      ++cases;
      Engine::Options options = Speculating();
      options.experts.id = "here";
      options.expert_wait = scheduler::Micros(0);  // who waits at all, ends
      const auto engine = MakeSteppedEngine(model, options);
      scheduler::Placement placement = {.epoch = 1, .plan = 1, .workers = {"elsewhere", "here"}};
      placement.owners.assign(with.size(), {1});
      placement.owners[expert] = {0};
      const auto shared = std::make_shared<const scheduler::Placement>(placement);
      ASSERT_TRUE(engine->Prepare(shared).ok());
      ASSERT_TRUE(engine->Commit(1, 1).ok());
      const auto link = std::make_shared<Collector>();
      used(*engine, link);
      EXPECT_TRUE(Same(link->answers, expected->answers));
      EXPECT_GT(engine->stats().steps_redone, 0u);
      EXPECT_EQ(engine->stats().lacks, "");
    }
  }
  EXPECT_GT(cases, 0) << "no guess shows it";
}

TEST(Speculation, GoesOnBehindWhatWasSampledElsewhere) {
  const auto model = TinyModel();
  for (int i = 0; i < kRequests; ++i) {
    SequenceRequest request = Request(i, model->spec.vocab);
    request.routing = request.prompt_logprobs = false;
    request.stop_tokens.resize(std::min<size_t>(request.stop_tokens.size(), 3));  // of 20
    const auto whole = std::make_shared<Collector>();
    const auto without = MakeSteppedEngine(model, {});
    ASSERT_TRUE(without->Submit(whole, request).ok());
    RunUntilIdle(*without);
    const std::vector<TokenId>& tokens = whole->answers.at(request.id).tokens;
    const auto engine = MakeSteppedEngine(model, Speculating());
    for (size_t had = 1; had < tokens.size(); had += 3) {
      const auto rest = std::make_shared<Collector>();
      request.generated.assign(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(had));
      ASSERT_TRUE(engine->Submit(rest, request).ok());
      RunUntilIdle(*engine);
      request.generated.insert(request.generated.end(), rest->answers.at(request.id).tokens.begin(),
                               rest->answers.at(request.id).tokens.end());
      EXPECT_EQ(request.generated, tokens) << "request " << i << ", behind " << had;
    }
  }
}

// Told in part, and then to another link from where the first one's client was.
TEST(Speculation, IsTakenOverBetweenTokensOfOneStep) {
  const auto model = TinyModel();
  for (int32_t told = 0; told < 14; ++told) {
    const auto engine = MakeSteppedEngine(model, Speculating());
    const auto first = std::make_shared<Collector>(), second = std::make_shared<Collector>();
    SequenceRequest request = Monotone(60);
    request.temperature = 1.0f;
    request.logit_bias = {{9, 4.0f}};
    request.name = "name";
    ASSERT_TRUE(engine->Submit(first, request).ok());
    while (std::ssize(first->answers[1].tokens) < told) engine->Step(kNow);
    engine->CloseLink(first.get());
    request.take_over = told;
    ASSERT_TRUE(engine->Submit(second, request).ok());
    RunUntilIdle(*engine);
    std::vector<TokenId> tokens = second->replayed[1];
    EXPECT_EQ(tokens.size(), static_cast<size_t>(told));
    const std::vector<TokenId>& rest = second->answers.at(1).tokens;
    tokens.insert(tokens.end(), rest.begin(), rest.end());

    const auto alone = std::make_shared<Collector>();
    const auto without = MakeSteppedEngine(model, {});
    request.take_over.reset();
    ASSERT_TRUE(without->Submit(alone, request).ok());
    RunUntilIdle(*without);
    EXPECT_EQ(tokens, alone->answers.at(1).tokens);
  }
}

TEST(Speculation, ChangesNothingAmongSeveralWorkers) {
  const std::string directory = Folder() + "/deepseek-v3-fp8";
  const auto model = Model::Load(directory);
  ASSERT_TRUE(model.ok()) << model.status();
  const int32_t vocab = (*model)->spec.vocab;
  const auto alone = MakeSteppedEngine(*model, {});
  Answers expected;
  for (int i = 0; i < kRequests; ++i) {
    const auto link = std::make_shared<Collector>();
    ASSERT_TRUE(alone->Submit(link, Request(i, vocab)).ok());
    RunUntilIdle(*alone);
    expected.merge(link->answers);
  }
  WorkerGroup::Options options = {.workers = 3, .engine = Speculating()};
  options.engine.planner.block_size = kBlock;
  WorkerGroup group(options, directory);
  group.Place(testing::AnyPlacement(3, testing::ExpertsOf(**model), 5));
  for (int i = 0; i < kRequests; ++i) group.Submit(i % 3, Request(i, vocab));
  group.AwaitAll();
  EXPECT_TRUE(Same(group.AllAnswers(), expected));
  EXPECT_GT(group.engine(0).stats().speculated_accepted, 0u);
}

}  // namespace
}  // namespace conclave::worker
