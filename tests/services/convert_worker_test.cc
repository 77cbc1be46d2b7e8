#include "services/convert_worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace conclave::services {
namespace {

using scheduler::Micros;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

worker::Model TinyModel() {
  worker::Model model;
  model.spec.layers = {{.moe = false}, {.moe = true}, {.moe = true}};
  model.spec.gate.slots = 8;
  model.spec.gate.top_k = 2;
  return model;
}

TEST(ConvertWorker, TakesEveryFieldOfASubmit) {
  v1::Submit submit;
  submit.set_sequence(5);
  submit.set_adapter("a");
  for (const uint32_t token : {1u, 2u, 3u}) submit.add_prompt(token);
  submit.set_temperature(0.5f);
  submit.set_top_p(0.9f);
  submit.set_top_k(40);
  submit.set_seed(~uint64_t{0});
  submit.set_max_tokens(9);
  submit.add_stop_token_ids(257);
  submit.set_logprobs(3);
  submit.set_prompt_logprobs(true);
  submit.set_routing(true);
  submit.set_reads_at_once(true);
  submit.set_timeout_us(1000);
  submit.set_min_p(0.1f);
  submit.set_repetition_penalty(1.25f);
  submit.set_presence_penalty(-0.5f);
  submit.set_frequency_penalty(0.75f);
  (*submit.mutable_logit_bias())[12] = -3.5f;
  submit.set_min_tokens(4);
  submit.set_cache_salt(std::string("\0\xff", 2));
  const auto request = ToSequenceRequest(submit, Micros(5));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->id, 5u);
  EXPECT_EQ(request->adapter, "a");
  EXPECT_THAT(request->prompt, ElementsAre(1, 2, 3));
  EXPECT_EQ(request->temperature, 0.5f);
  EXPECT_EQ(request->top_p, 0.9f);
  EXPECT_EQ(request->top_k, 40);
  EXPECT_EQ(request->seed, ~uint64_t{0});
  EXPECT_EQ(request->max_tokens, 9);
  EXPECT_THAT(request->stop_tokens, ElementsAre(257));
  EXPECT_EQ(request->logprobs, 3);
  EXPECT_TRUE(request->prompt_logprobs);
  EXPECT_TRUE(request->routing);
  EXPECT_TRUE(request->reads_at_once);
  EXPECT_EQ(request->deadline, Micros(1005));
  EXPECT_EQ(request->min_p, 0.1f);
  EXPECT_EQ(request->repetition_penalty, 1.25f);
  EXPECT_EQ(request->presence_penalty, -0.5f);
  EXPECT_EQ(request->frequency_penalty, 0.75f);
  EXPECT_THAT(request->logit_bias, ElementsAre(std::pair(12, -3.5f)));
  EXPECT_EQ(request->min_tokens, 4);
  EXPECT_EQ(request->cache_salt, std::string("\0\xff", 2));
}

TEST(ConvertWorker, LeavesOutWhatIsAbsent) {
  const auto request = ToSequenceRequest(v1::Submit(), Micros(5));
  ASSERT_TRUE(request.ok());
  EXPECT_FALSE(request->logprobs.has_value());
  EXPECT_FALSE(request->deadline.has_value());
  EXPECT_EQ(request->repetition_penalty, 1.0f);
}

TEST(ConvertWorker, NamesTheFieldWhoseNumberDoesNotFit) {
  const auto refused = [](auto&& set) {
    v1::Submit submit;
    set(submit);
    const auto request = ToSequenceRequest(submit, Micros(0));
    EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(request.status().message());
  };
  constexpr uint32_t kTooLarge = 1u << 31;
  EXPECT_THAT(refused([](v1::Submit& s) { s.add_prompt(kTooLarge); }), HasSubstr("prompt"));
  EXPECT_THAT(refused([](v1::Submit& s) { s.set_top_k(kTooLarge); }), HasSubstr("top_k"));
  EXPECT_THAT(refused([](v1::Submit& s) { s.set_max_tokens(kTooLarge); }), HasSubstr("max_tokens"));
  EXPECT_THAT(refused([](v1::Submit& s) { s.add_stop_token_ids(kTooLarge); }),
              HasSubstr("stop_token_ids"));
  EXPECT_THAT(refused([](v1::Submit& s) { s.set_logprobs(kTooLarge); }), HasSubstr("logprobs"));
  v1::Submit largest;
  largest.add_prompt(kTooLarge - 1);
  EXPECT_TRUE(ToSequenceRequest(largest, Micros(0)).ok());
}

TEST(ConvertWorker, KeepsTheLongestTimeoutFromOverflowing) {
  v1::Submit submit;
  submit.set_timeout_us(std::numeric_limits<uint64_t>::max());
  const Micros now = std::chrono::hours(24 * 365 * 100);
  EXPECT_GT(*ToSequenceRequest(submit, now)->deadline, now);
}

TEST(ConvertWorker, PutsSeveralStepsOfASequenceIntoOneEvent) {
  const worker::Model model = TinyModel();
  worker::SequenceEvent first{
      .id = 3, .tokens = {10}, .logprobs = {{10, -0.5f, {{10, -0.5f}, {11, -1.0f}}}}};
  first.cached_prompt_tokens = 32;
  first.routing = {.tokens = 1, .slots = {1, 2, 3, 4}, .weights = {0.5f, 0.5f, 0.25f, 0.75f}};
  worker::SequenceEvent second{.id = 3, .tokens = {20}, .logprobs = {{20, -0.25f, {}}}};
  second.routing = first.routing;
  second.end = worker::SequenceEnd{.reason = scheduler::FinishReason::kLength};
  v1::SequenceEvent proto;
  ToProto(first, model, proto);
  EXPECT_FALSE(proto.has_end());
  ToProto(second, model, proto);
  EXPECT_EQ(proto.sequence(), 3u);
  EXPECT_EQ(proto.cached_prompt_tokens(), 32u);
  EXPECT_THAT(proto.tokens(), ElementsAre(10u, 20u));
  ASSERT_EQ(proto.logprobs_size(), 2);
  EXPECT_EQ(proto.logprobs(0).top(1).token_id(), 11u);
  EXPECT_EQ(proto.logprobs(1).logprob(), -0.25f);
  EXPECT_EQ(proto.routing().layers(), 2u);
  EXPECT_THAT(proto.routing().layer_indices(), ElementsAre(1u, 2u));
  EXPECT_EQ(proto.routing().slots(), std::string("\1\0\2\0\3\0\4\0\1\0\2\0\3\0\4\0", 16));
  EXPECT_EQ(proto.routing().weights().size(), 8u * sizeof(float));
  EXPECT_EQ(proto.end().reason(), v1::End::LENGTH);
}

TEST(ConvertWorker, TellsAnErrorByCodeAndMessage) {
  worker::SequenceEvent event{.id = 1};
  event.end = worker::SequenceEnd{.status = absl::DeadlineExceededError("late")};
  v1::SequenceEvent proto;
  ToProto(event, TinyModel(), proto);
  EXPECT_EQ(proto.end().reason(), v1::End::ERROR);
  EXPECT_EQ(proto.end().code(), 4);
  EXPECT_EQ(proto.end().message(), "late");
  EXPECT_FALSE(proto.end().lacks_expert());
}

TEST(ConvertWorker, TellsThatAnExpertIsLacking) {
  worker::SequenceEvent event{.id = 1};
  event.end = worker::SequenceEnd{.status = absl::UnavailableError("lost"), .lacks_expert = true};
  v1::SequenceEvent proto;
  ToProto(event, TinyModel(), proto);
  EXPECT_EQ(proto.end().code(), 14);
  EXPECT_TRUE(proto.end().lacks_expert());
  worker::Engine::Stats stats;
  stats.lacks = "no live owner for expert 3";
  EXPECT_EQ(ToProto(stats).lacks(), stats.lacks);
}

TEST(ConvertWorker, CountsWhatAnEventHolds) {
  worker::SequenceEvent event{.id = 1};
  const size_t empty = BytesOf(event);
  event.tokens.resize(100);
  event.logprobs.resize(100);
  for (worker::Logprob& logprob : event.logprobs) logprob.top.resize(20);
  EXPECT_GE(BytesOf(event) - empty, 100u * (4 + 20 * 8));
}

}  // namespace
}  // namespace conclave::services
