// Every checkpoint of tests/reference, and with them every family and setting: what a request gets
// does not depend on its company, on how prompts are cut, on threads, or on a pool so small that
// sequences are computed twice.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/worker/testing/collector.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

using scheduler::TokenId;
using testing::Collector;
using Answers = std::map<uint64_t, Collector::Answer>;

constexpr scheduler::Micros kNow{1'000'000};
constexpr int kRequests = 16;

std::string Folder() { return std::string(CONCLAVE_SOURCE_DIR) + "/tests/reference/checkpoints"; }

std::set<std::string> Checkpoints() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(Folder())) {
    if (entry.is_directory()) names.insert(entry.path().filename().string());
  }
  return names;
}

std::unique_ptr<Engine> MakeEngine(std::shared_ptr<const Model> model, const std::string& level,
                                   int threads, Engine::Options options) {
  options.start_thread = false;
  CpuDeviceOptions device_options = CpuDeviceOptionsFor(model->spec, options);
  device_options.level = level;
  device_options.threads = threads;
  auto device = MakeCpuDevice(device_options);
  EXPECT_TRUE(device.ok()) << device.status();
  auto engine = Engine::Create(options, std::move(model), std::move(*device));
  EXPECT_TRUE(engine.ok()) << engine.status();
  return std::move(*engine);
}

// Prompts from one token to longer than chunks and windows; every other one sampled.
SequenceRequest Request(int i, int32_t vocab) {
  SequenceRequest request;
  request.id = static_cast<uint64_t>(i);
  uint64_t state = 0x9E3779B97F4A7C15u * static_cast<uint64_t>(i + 1);
  for (int t = 0; t <= (i * 37) % 150; ++t) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    request.prompt.push_back(static_cast<TokenId>((state >> 33) % static_cast<uint64_t>(vocab)));
  }
  request.max_tokens = 4 + i % 9;
  if (i % 2 == 1) {
    request.temperature = 0.9f;
    request.top_k = i % 3 == 0 ? 20 : 0;
    request.seed = static_cast<uint64_t>(i) * 1000003u;
  }
  if (i % 4 >= 2) {
    request.repetition_penalty = 1.3f;
    request.frequency_penalty = 0.25f;
    request.min_p = i % 8 >= 4 ? 0.02f : 0.0f;
    request.logit_bias = {{i % vocab, 1.5f}};
  }
  request.logprobs = i % 3;
  request.prompt_logprobs = i % 5 == 0;
  request.routing = i % 4 == 0;
  return request;
}

Answers AnswersOf(Engine& engine, int32_t vocab, bool together) {
  const auto link = std::make_shared<Collector>();
  const auto run = [&] {
    for (int steps = 0; engine.Step(kNow); ++steps) {
      if (steps > 20000) FAIL() << "the engine does not come to an end";
    }
  };
  for (int i = 0; i < kRequests; ++i) {
    const absl::Status status = engine.Submit(link, Request(i, vocab));
    EXPECT_TRUE(status.ok()) << status;
    if (!together) run();
  }
  run();
  return link->answers;
}

class EngineOnCheckpoints : public ::testing::TestWithParam<std::string> {};

TEST_P(EngineOnCheckpoints, AnswersDoNotDependOnTheCompanyTheChunkTheThreadsOrPreemption) {
  const auto model = Model::Load(Folder() + "/" + GetParam());
  ASSERT_TRUE(model.ok()) << model.status();
  const int32_t vocab = (*model)->spec.vocab;
  for (const std::string& level : CpuLevels()) {
    SCOPED_TRACE(level);
    const auto alone = MakeEngine(*model, level, 1, {});
    const Answers expected = AnswersOf(*alone, vocab, /*together=*/false);
    ASSERT_EQ(expected.size(), size_t{kRequests});
    for (const auto& [id, answer] : expected) {
      ASSERT_TRUE(answer.end.has_value() && answer.end->status.ok()) << id;
    }
    for (const auto& [chunk, threads] : {std::pair(16, 2), std::pair(64, 1), std::pair(512, 2)}) {
      const auto engine = MakeEngine(*model, level, threads, {.planner = {.prefill_chunk = chunk}});
      EXPECT_TRUE(AnswersOf(*engine, vocab, /*together=*/true) == expected) << "chunk " << chunk;
    }
    const Engine::Stats roomy = alone->stats();
    const int64_t position_bytes = roomy.kv_bytes / roomy.planner.blocks / roomy.kv_block_size;
    const auto tight = MakeEngine(*model, level, 1,
                                  {.planner = {.block_size = 4}, .kv_bytes = position_bytes * 240});
    EXPECT_TRUE(AnswersOf(*tight, vocab, /*together=*/true) == expected) << "with preemption";
    EXPECT_GT(tight->stats().recomputed_tokens, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EngineOnCheckpoints, ::testing::ValuesIn(Checkpoints()),
                         [](const auto& one) {
                           std::string name = one.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace conclave::worker
