// A sequence that was cut off anywhere goes on in another engine as if it had never been: the same
// tokens, the same bits, nothing told twice.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/check.h"
#include "tests/worker/testing/collector.h"
#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/engine.h"

namespace conclave::worker {
namespace {

using scheduler::FinishReason;
using scheduler::TokenId;
using testing::Collector;
using ::testing::HasSubstr;
using testing::TempDir;

constexpr scheduler::Micros kNow{1'000'000};
constexpr int32_t kVocab = 20;
constexpr int32_t kBlock = 4;

enum class Family { kDeepSeekV2, kOlmoe };

class EngineResume : public ::testing::TestWithParam<Family> {
 protected:
  EngineResume() {
    const TempDir dir;
    const testing::TinyOptions tiny = {.vocab = kVocab, .eos = -1, .tokenizer = false};
    (GetParam() == Family::kOlmoe ? testing::WriteTinyOlmoe : testing::WriteTinyDeepSeekV2)(
        dir.path(), 7, tiny);
    auto model = Model::Load(dir.path());
    CONCLAVE_CHECK(model.ok());
    model_ = *model;
  }

  std::unique_ptr<Engine> Fresh(int32_t prefill_chunk = 512, int64_t waiting_tokens = 1 << 20) {
    Engine::Options options = {.start_thread = false};
    options.planner.block_size = kBlock;
    options.planner.prefill_chunk = prefill_chunk;
    options.planner.max_waiting_tokens = waiting_tokens;
    CpuDeviceOptions device_options = CpuDeviceOptionsFor(model_->spec, options);
    device_options.threads = 1;
    auto device = MakeCpuDevice(device_options);
    CONCLAVE_CHECK(device.ok());
    auto engine = Engine::Create(options, model_, std::move(*device));
    CONCLAVE_CHECK(engine.ok());
    return std::move(*engine);
  }

  static Collector::Answer Run(Engine& engine, const SequenceRequest& request) {
    const auto link = std::make_shared<Collector>();
    const absl::Status status = engine.Submit(link, request);
    EXPECT_TRUE(status.ok()) << status;
    for (int steps = 0; engine.Step(kNow); ++steps) CONCLAVE_CHECK(steps < 20000);
    return link->answers[request.id];
  }

  // `request` as it is sent on after `told` of its answer's tokens.
  static SequenceRequest After(SequenceRequest request, const Collector::Answer& answer,
                               size_t told) {
    request.generated.assign(answer.tokens.begin(),
                             answer.tokens.begin() + static_cast<ptrdiff_t>(told));
    if (told == 0) return request;
    request.prompt_logprobs_told =
        request.prompt_logprobs ? static_cast<int32_t>(request.prompt.size()) - 1 : 0;
    request.routing_told =
        request.routing ? static_cast<int32_t>(request.prompt.size() + told - 1) : 0;
    return request;
  }

  template <typename List>
  static void Cut(List& list, size_t count) {
    if (!list.empty()) list.erase(list.begin(), list.begin() + static_cast<ptrdiff_t>(count));
  }

  // What is left of `answer` behind `told` tokens, of which it reported on everything before.
  Collector::Answer Rest(const SequenceRequest& request, Collector::Answer answer, size_t told) {
    Cut(answer.tokens, told);
    Cut(answer.logprobs, told);
    if (told == 0) return answer;
    answer.prompt_logprobs.clear();
    const size_t width =
        static_cast<size_t>(model_->spec.gate.top_k) *
        static_cast<size_t>(std::count_if(model_->spec.layers.begin(), model_->spec.layers.end(),
                                          [](const LayerSpec& layer) { return layer.moe; }));
    const size_t positions = request.prompt.size() + told - 1;
    Cut(answer.routing.slots, positions * width);
    Cut(answer.routing.weights, positions * width);
    return answer;
  }

  void ExpectSameWhereverItIsCut(const SequenceRequest& request) {
    const Collector::Answer whole = Run(*Fresh(), request);
    ASSERT_GT(whole.tokens.size(), 2u);
    for (size_t told = 0; told < whole.tokens.size(); ++told) {
      SCOPED_TRACE(told);
      // Another chunk size each time: how what was told is computed again must not count.
      const auto engine = Fresh(static_cast<int32_t>(1 + told % 7));
      const Collector::Answer rest = Run(*engine, After(request, whole, told));
      EXPECT_EQ(rest, Rest(request, whole, told));
      ASSERT_TRUE(rest.end && rest.end->status.ok());
      EXPECT_EQ(rest.end->reason, whole.end->reason);
    }
  }

  std::shared_ptr<const Model> model_;
};

const SequenceRequest kPlain = {.id = 1, .prompt = {3, 1, 4, 1, 5, 9, 2, 6}, .max_tokens = 24};

TEST_P(EngineResume, GoesOnGreedily) {
  SequenceRequest request = kPlain;
  request.logprobs = 3;
  ExpectSameWhereverItIsCut(request);
}

TEST_P(EngineResume, GoesOnWithEverySamplingOption) {
  SequenceRequest request = kPlain;
  request.temperature = 1.3f;
  request.top_p = 0.95f;
  request.top_k = 15;
  request.min_p = 0.01f;
  request.seed = 0xfeedface12345678u;
  request.repetition_penalty = 1.2f;
  request.presence_penalty = 0.4f;
  request.frequency_penalty = 0.3f;
  request.logit_bias = {{3, 1.0f}, {7, -2.0f}};
  request.logprobs = kVocab;
  ExpectSameWhereverItIsCut(request);
}

TEST_P(EngineResume, KeepsWhatMayNotComeYetAndWhatStops) {
  SequenceRequest request = kPlain;
  request.temperature = 1.5f;
  request.seed = 5;
  request.max_tokens = 60;
  request.min_tokens = 12;
  request.stop_tokens = {1, 2, 3, 4, 5};
  const Collector::Answer whole = Run(*Fresh(), request);
  ASSERT_GT(whole.tokens.size(), 12u);
  ASSERT_EQ(whole.end->reason, FinishReason::kStop);
  ExpectSameWhereverItIsCut(request);
}

TEST_P(EngineResume, TellsNothingOfThePromptAndTheRoutingTwice) {
  SequenceRequest request = kPlain;
  request.logprobs = 2;
  request.prompt_logprobs = true;
  request.routing = true;
  ExpectSameWhereverItIsCut(request);
}

TEST_P(EngineResume, GoesOnInTheMiddleOfAScore) {
  SequenceRequest request = kPlain;
  request.max_tokens = 0;
  request.logprobs = 2;
  request.prompt_logprobs = true;
  request.routing = true;
  const Collector::Answer whole = Run(*Fresh(), request);
  const size_t width = whole.routing.slots.size() / request.prompt.size();
  for (size_t told = 0; told < request.prompt.size(); ++told) {
    request.prompt_logprobs_told = request.routing_told = static_cast<int32_t>(told);
    Collector::Answer rest = whole;
    Cut(rest.prompt_logprobs, told);
    Cut(rest.routing.slots, told * width);
    Cut(rest.routing.weights, told * width);
    EXPECT_EQ(Run(*Fresh(3), request), rest) << told;
  }
}

// Its own blocks, when it comes back to the worker that had it, are found, the output's too.
TEST_P(EngineResume, StartsBehindWhatIsCachedOfItsOutputToo) {
  const auto engine = Fresh();
  SequenceRequest request = kPlain;
  request.logprobs = 1;
  const Collector::Answer whole = Run(*engine, request);
  const Engine::Stats before = engine->stats();
  request = After(request, whole, 20);
  EXPECT_EQ(Run(*engine, request), Rest(request, whole, 20));
  const Engine::Stats after = engine->stats();
  EXPECT_EQ(after.prefix_hits - before.prefix_hits, request.prompt.size());
  // 28 positions are seven blocks, of which the last position is computed again for its logits.
  EXPECT_EQ(after.generated_tokens - before.generated_tokens, 4u);
  EXPECT_LE(after.steps - before.steps, 5u);
}

TEST_P(EngineResume, TakesWhatGrewBeyondTheQueueElsewhere) {
  SequenceRequest request = kPlain;
  const Collector::Answer whole = Run(*Fresh(), request);
  request = After(request, whole, 20);
  const auto engine = Fresh(512, 10);  // the prompt fits the queue, with its output it does not
  EXPECT_EQ(Run(*engine, request), Rest(request, whole, 20));
}

TEST_P(EngineResume, RefusesWhatIsOverByName) {
  const auto engine = Fresh();
  const auto link = std::make_shared<Collector>();
  const auto refusal = [&](const std::function<void(SequenceRequest&)>& change) {
    SequenceRequest request = kPlain;
    change(request);
    return std::string(engine->Submit(link, request).message());
  };
  EXPECT_THAT(refusal([](auto& r) { r.generated.assign(24, 1); }),
              HasSubstr("generated has 24 tokens, max_tokens is 24: nothing is left"));
  EXPECT_EQ(refusal([](auto& r) { r.generated.assign(23, 1); }), "");
  EXPECT_THAT(refusal([](auto& r) {
                r.generated = {1, 2};
                r.stop_tokens = {2};
              }),
              HasSubstr("generated has the stop token 2"));
}

INSTANTIATE_TEST_SUITE_P(Families, EngineResume,
                         ::testing::Values(Family::kDeepSeekV2, Family::kOlmoe),
                         [](const auto& row) {
                           return row.param == Family::kOlmoe ? "Olmoe" : "DeepSeekV2";
                         });

}  // namespace
}  // namespace conclave::worker
