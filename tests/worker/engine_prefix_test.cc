// Reuse of KV blocks, on every checkpoint of tests/reference and with them on every family: answers
// are those of an engine that computes everything, whatever is shared, cut, copied, evicted,
// preempted, paused or cancelled on the way; and what can be shared is.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "tests/worker/testing/collector.h"
#include "tests/worker/testing/many_requests.h"
#include "tests/worker/testing/stepped_engine.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

using scheduler::TokenId;
using testing::Checkpoints;
using testing::Collector;
using testing::Folder;
using testing::kBlock;
using testing::kNow;
using testing::MakeSteppedEngine;
using testing::RunUntilIdle;
using testing::TempDir;
using Answers = std::map<uint64_t, Collector::Answer>;

std::vector<TokenId> Tokens(int length, int which, int32_t vocab) {
  std::vector<TokenId> tokens;
  uint64_t state = 0x9E3779B97F4A7C15u * static_cast<uint64_t>(which + 1);
  for (int i = 0; i < length; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<TokenId>((state >> 33) % static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

// Prompts that begin as others do: one of three stems, whole or in part, a few tokens behind it;
// some end with a block, some are the same as one before.
SequenceRequest Request(int i, int32_t vocab) {
  SequenceRequest request;
  request.id = static_cast<uint64_t>(i);
  const int shared = i % 7 == 3 ? 6 * kBlock : (i * 29) % 90;
  request.prompt = Tokens(shared, i % 3, vocab);
  const std::vector<TokenId> own = Tokens(i % 7 == 3 ? 0 : 1 + i % 11, 100 + i, vocab);
  request.prompt.insert(request.prompt.end(), own.begin(), own.end());
  request.max_tokens = 4 + i % 20;
  if (i % 2 == 1) {
    request.temperature = 0.9f;
    request.seed = static_cast<uint64_t>(i % 5);
  }
  request.logprobs = i % 3;
  request.prompt_logprobs = i % 6 == 5;
  request.routing = i % 11 == 10;
  return request;
}

constexpr int kRequests = 28;

Answers OneByOne(Engine& engine, int32_t vocab) {
  const auto link = std::make_shared<Collector>();
  for (int i = 0; i < kRequests; ++i) {
    EXPECT_TRUE(engine.Submit(link, Request(i, vocab)).ok());
    RunUntilIdle(engine);
  }
  EXPECT_EQ(engine.stats().planner.blocks_used, 0);
  return link->answers;
}

Answers Together(Engine& engine, int32_t vocab) {
  const auto link = std::make_shared<Collector>();
  for (int i = 0; i < kRequests; ++i) {
    EXPECT_TRUE(engine.Submit(link, Request(i, vocab)).ok());
    if (i % 9 == 0) engine.Step(kNow);
  }
  RunUntilIdle(engine);
  EXPECT_EQ(engine.stats().planner.blocks_used, 0);
  return link->answers;
}

// Beside others that are cancelled, and with a part of them paused for a while.
Answers Disturbed(Engine& engine, int32_t vocab) {
  const auto link = std::make_shared<Collector>();
  const auto others = std::make_shared<Collector>();
  for (int i = 0; i < kRequests; ++i) {
    EXPECT_TRUE(engine.Submit(link, Request(i, vocab)).ok());
    EXPECT_TRUE(engine.Submit(others, Request(i, vocab)).ok());
    if (i % 4 == 1) engine.SetPaused(link.get(), static_cast<uint64_t>(i), true);
    engine.Step(kNow);
    engine.Cancel(others.get(), static_cast<uint64_t>(i / 2));
  }
  engine.CloseLink(others.get());
  for (int i = 0; i < 10; ++i) engine.Step(kNow);
  for (int i = 0; i < kRequests; ++i) {
    engine.SetPaused(link.get(), static_cast<uint64_t>(i), false);
  }
  RunUntilIdle(engine);
  EXPECT_EQ(engine.stats().planner.blocks_used, 0);
  return link->answers;
}

class PrefixReuseOn : public ::testing::TestWithParam<std::string> {};

TEST_P(PrefixReuseOn, ChangesNoBitOfAnyAnswer) {
  const auto model = Model::Load(Folder() + "/" + GetParam());
  ASSERT_TRUE(model.ok()) << model.status();
  const int32_t vocab = (*model)->spec.vocab;
  const auto without = MakeSteppedEngine(*model, {.prefix_reuse = false});
  const Answers expected = OneByOne(*without, vocab);
  EXPECT_EQ(without->stats().prefix_queries, 0u);
  EXPECT_EQ(without->stats().planner.blocks_cached, 0);

  const auto with = MakeSteppedEngine(*model, {});
  EXPECT_TRUE(OneByOne(*with, vocab) == expected) << "one by one";
  EXPECT_GT(with->stats().prefix_hits, 400u);
  EXPECT_TRUE(OneByOne(*with, vocab) == expected) << "once more, all of it cached";
  for (const int chunk : {1, 7, 16, 512}) {
    const auto engine = MakeSteppedEngine(*model, {.planner = {.prefill_chunk = chunk}});
    EXPECT_TRUE(Together(*engine, vocab) == expected) << "together, chunk " << chunk;
    EXPECT_GT(engine->stats().prefix_hits, 0u) << "chunk " << chunk;
  }
  const Engine::Stats roomy = with->stats();
  const int64_t block_bytes = roomy.kv_bytes / roomy.planner.blocks;
  const auto tight = MakeSteppedEngine(*model, {.kv_bytes = block_bytes * 30});
  EXPECT_TRUE(Together(*tight, vocab) == expected) << "with preemption";
  EXPECT_GT(tight->stats().planner.preemptions, 0u);
  EXPECT_GT(tight->stats().planner.evictions, 0u);
  const auto disturbed = MakeSteppedEngine(*model, {.kv_bytes = block_bytes * 60});
  EXPECT_TRUE(Disturbed(*disturbed, vocab) == expected) << "with pauses and cancels";
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, PrefixReuseOn, ::testing::ValuesIn(Checkpoints()),
                         [](const auto& one) {
                           std::string name = one.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

std::unique_ptr<Engine> MakeTinyEngine(Engine::Options options = {},
                                       const testing::TinyOptions& tiny = {}) {
  const TempDir dir;
  testing::WriteTinyDeepSeekV2(dir.path(), 7, tiny);
  auto model = Model::Load(dir.path());
  EXPECT_TRUE(model.ok()) << model.status();
  return MakeSteppedEngine(*model, std::move(options));
}

// Rows the engine computed for this request, and nothing else beside it.
struct Cost {
  double rows = 0;
  uint64_t hits = 0;
};
Cost CostOf(Engine& engine, SequenceRequest request) {
  const Engine::Stats before = engine.stats();
  const auto link = std::make_shared<Collector>();
  EXPECT_TRUE(engine.Submit(link, std::move(request)).ok());
  RunUntilIdle(engine);
  const Engine::Stats after = engine.stats();
  return {after.step_tokens.sum - before.step_tokens.sum, after.prefix_hits - before.prefix_hits};
}

TEST(PrefixReuse, APromptSeenBeforeCostsOnePosition) {
  const auto engine = MakeTinyEngine();
  const std::vector<TokenId> prompt = Tokens(5 * kBlock, 1, 256);
  const SequenceRequest request = {.id = 1, .prompt = prompt, .max_tokens = 1};
  EXPECT_EQ(CostOf(*engine, request).rows, 5 * kBlock);
  const Cost again = CostOf(*engine, request);
  EXPECT_EQ(again.rows, 1);
  EXPECT_EQ(again.hits, 5u * kBlock - 1);
}

TEST(PrefixReuse, OnlyWholeBlocksAreFound) {
  const auto engine = MakeTinyEngine();
  const std::vector<TokenId> prompt = Tokens(3 * kBlock + 5, 1, 256);
  CostOf(*engine, {.id = 1, .prompt = prompt, .max_tokens = 1});
  EXPECT_EQ(CostOf(*engine, {.id = 1, .prompt = prompt, .max_tokens = 1}).rows, 5);
  std::vector<TokenId> other = prompt;
  other[static_cast<size_t>(kBlock)] ^= 1;
  EXPECT_EQ(CostOf(*engine, {.id = 1, .prompt = other, .max_tokens = 1}).hits, uint64_t{kBlock});
}

TEST(PrefixReuse, AConversationGoesOnBehindWhatWasGenerated) {
  const auto engine = MakeTinyEngine();
  const auto link = std::make_shared<Collector>();
  std::vector<TokenId> talk = Tokens(10, 1, 256);
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = talk, .max_tokens = 3 * kBlock}).ok());
  RunUntilIdle(*engine);
  const std::vector<TokenId>& said = link->answers.at(1).tokens;
  talk.insert(talk.end(), said.begin(), said.end());  // 34 tokens, 33 of them computed
  talk.push_back(9);
  EXPECT_EQ(CostOf(*engine, {.id = 2, .prompt = talk, .max_tokens = 1}).hits, 4u * kBlock);
}

TEST(PrefixReuse, SequencesOfOnePromptComputeItOnce) {
  const auto engine = MakeTinyEngine();
  const auto link = std::make_shared<Collector>();
  const std::vector<TokenId> prompt = Tokens(10 * kBlock + 3, 1, 256);
  for (uint64_t id = 1; id <= 8; ++id) {
    ASSERT_TRUE(
        engine
            ->Submit(link,
                     {.id = id, .prompt = prompt, .temperature = 1.0f, .seed = id, .max_tokens = 1})
            .ok());
  }
  RunUntilIdle(*engine);
  EXPECT_EQ(engine->stats().step_tokens.sum, 10 * kBlock + 8 * 3);
  EXPECT_EQ(engine->stats().prefix_hits, 7u * 10 * kBlock);
  EXPECT_EQ(engine->stats().prefix_queries, 8u * prompt.size());
}

TEST(PrefixReuse, ALongPromptIsComputedOnceChunkByChunk) {
  const auto engine = MakeTinyEngine({.planner = {.step_tokens = 64, .prefill_chunk = 13}});
  const auto link = std::make_shared<Collector>();
  const std::vector<TokenId> prompt = Tokens(12 * kBlock + 1, 1, 256);
  for (uint64_t id = 1; id <= 3; ++id) {
    ASSERT_TRUE(engine->Submit(link, {.id = id, .prompt = prompt, .max_tokens = 1}).ok());
  }
  RunUntilIdle(*engine);
  EXPECT_EQ(engine->stats().step_tokens.sum, 12 * kBlock + 3);
}

TEST(PrefixReuse, SaltsShareNothing) {
  const auto engine = MakeTinyEngine();
  const std::vector<TokenId> prompt = Tokens(40, 1, 256);
  const auto request = [&](std::string salt) {
    return SequenceRequest{
        .id = 1, .prompt = prompt, .max_tokens = 1, .cache_salt = std::move(salt)};
  };
  CostOf(*engine, request("red"));
  EXPECT_EQ(CostOf(*engine, request("")).hits, 0u);
  EXPECT_EQ(CostOf(*engine, request("blue")).hits, 0u);
  EXPECT_EQ(CostOf(*engine, request("red")).hits, 39u);
  EXPECT_EQ(CostOf(*engine, request(std::string("red\0", 4))).hits, 0u);
}

TEST(PrefixReuse, ASaltHasALimit) {
  const auto engine = MakeTinyEngine();
  const auto link = std::make_shared<Collector>();
  const auto submit = [&](size_t bytes) {
    return engine->Submit(
        link, {.id = bytes, .prompt = {1}, .max_tokens = 1, .cache_salt = std::string(bytes, 's')});
  };
  EXPECT_TRUE(submit(64).ok());
  EXPECT_EQ(submit(65).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(submit(65).message()),
              ::testing::HasSubstr("cache_salt has 65 bytes, the limit is 64"));
}

TEST(PrefixReuse, WhoReportsOnItsPromptComputesItAll) {
  const auto engine = MakeTinyEngine();
  const std::vector<TokenId> prompt = Tokens(40, 1, 256);
  const SequenceRequest score = {.id = 1, .prompt = prompt, .prompt_logprobs = true};
  EXPECT_EQ(CostOf(*engine, score).rows, 40);
  EXPECT_EQ(CostOf(*engine, score).rows, 40);
  EXPECT_EQ(engine->stats().prefix_queries, 0u) << "it did not ask";
  EXPECT_EQ(CostOf(*engine, {.id = 1, .prompt = prompt, .max_tokens = 1}).hits, 39u)
      << "but others find what it computed";
}

TEST(PrefixReuse, TheFirstTokenComesWithWhatWasFound) {
  class Counts final : public Link {
   public:
    void OnStep(std::vector<SequenceEvent> events) override {
      for (const SequenceEvent& event : events) cached.push_back(event.cached_prompt_tokens);
    }
    std::vector<int32_t> cached;
  };
  const auto engine = MakeTinyEngine();
  const auto link = std::make_shared<Counts>();
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(
        engine->Submit(link, {.id = 1, .prompt = Tokens(20, 1, 256), .max_tokens = 2}).ok());
    RunUntilIdle(*engine);
  }
  EXPECT_THAT(link->cached, ::testing::ElementsAre(0, 0, 16, 0));
}

TEST(PrefixReuse, BlocksOfNumbersThatAreNoneAreNotFound) {
  // Token 3's embedding is infinite: whatever attends to it has no finite logits.
  const auto poison = [](nlohmann::json&, std::vector<testing::TinyTensor>& tensors) {
    for (testing::TinyTensor& tensor : tensors) {
      if (tensor.name != "model.embed_tokens.weight") continue;
      const std::string infinite = testing::Encode(DType::kF32, {INFINITY});
      for (int i = 0; i < 32; ++i) {
        tensor.bytes.replace(static_cast<size_t>(3 * 32 + i) * 4, 4, infinite);
      }
    }
  };
  const auto engine = MakeTinyEngine({.planner = {.prefill_chunk = 16}}, {.edit = poison});
  std::vector<TokenId> prompt(40, 5);
  prompt[2] = 3;
  const auto link = std::make_shared<Collector>();
  ASSERT_TRUE(engine->Submit(link, {.id = 1, .prompt = prompt, .max_tokens = 4}).ok());
  engine->Step(kNow);
  EXPECT_EQ(engine->stats().planner.blocks_used, 6);
  RunUntilIdle(*engine);
  EXPECT_EQ(link->answers.at(1).end->status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(engine->stats().planner.blocks_cached, 0);
}

}  // namespace
}  // namespace conclave::worker
