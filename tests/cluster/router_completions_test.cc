// Several completions of one prompt, and sampling options on their way through a router.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <set>
#include <string>

#include "router/completion_seed.h"
#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::HasSubstr;

// Each completion of a stream as if it were one of its own.
std::map<uint32_t, Stream> ByIndex(const Stream& stream) {
  std::map<uint32_t, Stream> completions;
  for (const v1::GenerateResponse& message : stream.messages) {
    Stream& completion = completions[message.index()];
    EXPECT_EQ(completion.last.finish_reason(), v1::FINISH_REASON_UNSPECIFIED)
        << "a message after the last of " << message.index();
    completion.text += message.text();
    completion.messages.push_back(message);
    completion.last = message;
  }
  return completions;
}

TEST(Router, GivesEveryCompletionAsItsSeedGivesItAlone) {
  FakeWorker worker;
  TestRouter router({&worker});
  for (const std::string& prompt : {std::string("hello"), std::string(3000, 'x')}) {
    v1::GenerateRequest request = TextRequest(prompt, 20);
    const std::string id = "many";
    request.set_request_id(id);
    request.set_n(5);
    request.set_prompt_logprobs(true);
    const Stream stream = router.Generate(request);
    ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
    const auto completions = ByIndex(stream);
    ASSERT_EQ(completions.size(), 5u);
    std::set<std::string> texts;
    for (const auto& [index, completion] : completions) {
      const v1::GenerateResponse& first = completion.messages.front();
      EXPECT_EQ(first.request_id(), id);
      EXPECT_EQ(first.seed(), router::CompletionSeed(1, index));
      EXPECT_EQ(completion.text, HashedText(prompt, first.seed(), 20)) << index;
      EXPECT_EQ(completion.last.finish_reason(), v1::FINISH_REASON_LENGTH);
      EXPECT_EQ(completion.last.usage().prompt_tokens(), prompt.size());
      EXPECT_EQ(completion.last.usage().completion_tokens(), 20u);
      int prompt_logprobs = 0;
      for (const auto& message : completion.messages) {
        prompt_logprobs += message.prompt_logprobs_size();
      }
      EXPECT_EQ(prompt_logprobs, index == 0 ? static_cast<int>(prompt.size()) - 1 : 0);
      texts.insert(completion.text);
    }
    EXPECT_EQ(texts.size(), 5u);
    EXPECT_EQ(completions.at(0).text, HashedText(prompt, 1, 20)) << "what n = 1 gives";
  }
}

TEST(Router, SeedsOfCompletionsAreAllDifferent) {
  std::set<uint64_t> seeds;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (uint32_t index = 0; index < 32; ++index) {
      seeds.insert(router::CompletionSeed(seed * 1'000'003, index));
    }
  }
  EXPECT_EQ(seeds.size(), 3200u);
}

TEST(Router, CountsEveryCompletionAgainstItsPlaces) {
  FakeWorker worker({.manual = true});
  services::Frontend::Options options;
  options.admission.max_requests = 4;
  TestRouter router({&worker}, options);
  v1::GenerateRequest two = TextRequest("hello", 2);
  two.set_n(2);
  grpc::ClientContext context;
  const auto reader = router.stub().Generate(&context, two);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 2; }));
  EXPECT_EQ(router.frontend().stats().requests, 2);

  v1::GenerateRequest three = TextRequest("hello", 2);
  three.set_n(3);
  EXPECT_EQ(router.Generate(three).status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(router.frontend().stats().requests, 2) << "a refusal takes no place";
  three.set_n(5);
  const grpc::Status never = router.Generate(three).status;
  EXPECT_EQ(never.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(never.error_message(), "n is 5, it must be from 1 to 4");

  worker.SetManual(false);
  EXPECT_TRUE(TestRouter::ReadAll(*reader).status.ok());
  ASSERT_TRUE(router.frontend().WaitIdle(std::chrono::seconds(30)));
  three.set_n(4);
  EXPECT_TRUE(router.Generate(three).status.ok());
}

TEST(Router, RefusesTheWholeRequestWhenItsTokensTogetherAreTooMany) {
  FakeWorker worker;
  services::Frontend::Options options;
  options.admission.max_tokens = 100;
  TestRouter router({&worker}, options);
  v1::GenerateRequest request = TextRequest("hello", 45);
  request.set_n(2);
  EXPECT_TRUE(router.Generate(request).status.ok()) << "twice 50 tokens";
  request.set_n(3);
  EXPECT_EQ(router.Generate(request).status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 0; }));
}

TEST(Router, CancelsEveryCompletionWhenTheClientLeaves) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("hello", 100);
  request.set_n(3);
  grpc::ClientContext context;
  const auto reader = router.stub().Generate(&context, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 3; }));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  EXPECT_TRUE(
      worker.WaitFor([](const auto& counts) { return counts.cancels == 3 && counts.live == 0; }));
}

TEST(Router, EndsWithTheFirstErrorOfAnyCompletion) {
  const uint64_t bad = router::CompletionSeed(1, 2);
  FakeWorker worker({.token = [bad](const v1::Submit& submit, uint32_t index) {
    return submit.seed() == bad && index == 3 ? 1u << 20 : uint32_t{'a'};
  }});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("hello", 4000);
  request.set_n(4);
  const Stream stream = router.Generate(request);
  EXPECT_EQ(stream.status.error_code(), grpc::INTERNAL);
  EXPECT_THAT(stream.status.error_message(), HasSubstr("sampled token 1048576"));
  for (const auto& [index, completion] : ByIndex(stream)) {
    EXPECT_EQ(completion.last.finish_reason(), v1::FINISH_REASON_UNSPECIFIED) << index;
  }
  EXPECT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 0; }));
}

TEST(Router, SendsEverySamplingOptionToTheWorker) {
  std::mutex mutex;
  v1::Submit seen;
  FakeWorker worker({.token = [&](const v1::Submit& submit, uint32_t) {
    std::lock_guard lock(mutex);
    seen = submit;
    return uint32_t{'a'};
  }});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("hello", 8);
  ASSERT_TRUE(router.Generate(request).status.ok());
  EXPECT_EQ(seen.repetition_penalty(), 1.0f);
  EXPECT_EQ(seen.min_p(), 0.0f);

  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(0.5f);
  sampling.set_min_p(0.125f);
  sampling.set_repetition_penalty(1.5f);
  sampling.set_presence_penalty(-1.0f);
  sampling.set_frequency_penalty(0.5f);
  (*sampling.mutable_logit_bias())[7] = -3.0f;
  (*sampling.mutable_logit_bias())[9] = 4.0f;
  request.mutable_stopping()->set_min_tokens(3);
  request.mutable_stopping()->add_stop_token_ids(11);
  ASSERT_TRUE(router.Generate(request).status.ok());
  EXPECT_EQ(seen.temperature(), 0.5f);
  EXPECT_EQ(seen.min_p(), 0.125f);
  EXPECT_EQ(seen.repetition_penalty(), 1.5f);
  EXPECT_EQ(seen.presence_penalty(), -1.0f);
  EXPECT_EQ(seen.frequency_penalty(), 0.5f);
  EXPECT_EQ(seen.logit_bias().at(7), -3.0f);
  EXPECT_EQ(seen.logit_bias().at(9), 4.0f);
  EXPECT_EQ(seen.min_tokens(), 3u);
  EXPECT_EQ(seen.stop_token_ids(0), 11u);
}

TEST(Router, MatchesNoStopStringInTheFirstTokens) {
  FakeWorker worker({.token = [](const v1::Submit&, uint32_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>("ab."[i % 3]));
  }});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 100);
  request.mutable_stopping()->add_stop(".");
  request.mutable_stopping()->set_min_tokens(6);
  const Stream stream = router.Generate(request);
  EXPECT_EQ(stream.text, "ab.ab.ab");
  EXPECT_EQ(stream.last.stop_string(), ".");
}

}  // namespace
}  // namespace conclave::testing
