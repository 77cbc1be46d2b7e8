// A client that comes back: through the router it had or another one, its stream goes on behind
// what it has.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

// What FakeWorker says to "hello".
std::vector<uint32_t> Tokens(uint32_t count) {
  const std::string text = HashedText("hello", 1, count);
  return {text.begin(), text.end()};
}

v1::GenerateRequest Hello(uint32_t tokens) {
  v1::GenerateRequest request = TextRequest("hello", tokens);
  request.set_request_id("mine");
  return request;
}

v1::GenerateRequest Behind(v1::GenerateRequest request, uint32_t count) {
  request.set_resume_from(count);
  return request;
}

void ExpectRest(const Stream& stream, uint32_t from, uint32_t all) {
  EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, HashedText("hello", 1, all).substr(from));
  EXPECT_EQ(stream.tokens.size(), all - from);
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(stream.last.usage().completion_tokens(), all);
  ASSERT_FALSE(stream.messages.empty());
  EXPECT_EQ(stream.messages[0].request_id(), "mine");
  EXPECT_EQ(stream.messages[0].seed(), 1u);
}

TEST(RouterReattach, GivesTheRestWhereverTheStreamBroke) {
  FakeWorker worker;
  TestRouter router({&worker});
  for (uint32_t from = 0; from <= 9; ++from) {
    SCOPED_TRACE(from);
    v1::GenerateRequest request = Behind(Hello(9), from);
    ExpectRest(router.Generate(request), from, 9);
    EXPECT_EQ(worker.counts().last_submit.take_over(), from);
    const auto tokens = Tokens(from);
    request.mutable_received_token_ids()->Add(tokens.begin(), tokens.end());
    const uint64_t before = worker.counts().tokens;
    ExpectRest(router.Generate(request), from, 9);
    EXPECT_EQ(worker.counts().tokens - before, 9 - from) << "none is computed again";
  }
}

TEST(RouterReattach, GivesLogProbabilitiesOfTheRestAlone) {
  FakeWorker worker;
  TestRouter router({&worker});
  v1::GenerateRequest request = Hello(9);
  request.set_logprobs(1);
  request.set_prompt_logprobs(true);
  const Stream whole = router.Generate(request);
  ASSERT_EQ(whole.messages[0].prompt_logprobs_size(), 4);
  const Stream rest = router.Generate(Behind(request, 4));
  ASSERT_EQ(rest.logprobs.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(rest.logprobs[i].SerializeAsString(), whole.logprobs[i + 4].SerializeAsString());
  }
  for (const auto& message : rest.messages) EXPECT_EQ(message.prompt_logprobs_size(), 0);
}

TEST(RouterReattach, FindsAStopStringThatBeganBefore) {
  FakeWorker worker({.token = Says("once upon a STOP time")});
  TestRouter router({&worker});
  v1::GenerateRequest request = Hello(30);
  request.mutable_stopping()->add_stop("STOP");
  const Stream rest = router.Generate(Behind(request, 14));  // up to "ST"
  EXPECT_TRUE(rest.status.ok()) << rest.status.error_message();
  EXPECT_EQ(rest.text, "");
  EXPECT_EQ(rest.last.stop_string(), "STOP");
  EXPECT_EQ(rest.tokens.size(), 2u);
}

TEST(RouterReattach, EndsWhatHasEnded) {
  FakeWorker worker({.token = Says("end")});
  TestRouter router({&worker});
  v1::GenerateRequest request = Hello(30);
  const std::vector<uint32_t> tokens = {'e', 'n', 'd', kEos};
  for (const bool received : {false, true}) {
    v1::GenerateRequest again = Behind(request, 4);
    if (received) again.mutable_received_token_ids()->Add(tokens.begin(), tokens.end());
    const Stream rest = router.Generate(again);
    EXPECT_TRUE(rest.status.ok()) << rest.status.error_message();
    EXPECT_EQ(rest.text, "");
    EXPECT_TRUE(rest.tokens.empty());
    EXPECT_EQ(rest.last.finish_reason(), v1::FINISH_REASON_STOP);
    EXPECT_EQ(rest.last.stop_token_id(), static_cast<uint32_t>(kEos));
    EXPECT_EQ(rest.last.usage().completion_tokens(), 4u);
  }
}

TEST(RouterReattach, TakesOverALiveStreamAndEndsTheOlderOne) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  grpc::ClientContext context;
  const auto older = router.stub().Generate(&context, Hello(9));
  v1::GenerateResponse message;
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  std::string text;
  while (text.size() < 4) {
    worker.Step();
    ASSERT_TRUE(older->Read(&message));
    text += message.text();
  }
  std::thread newer([&] { ExpectRest(router.Generate(Behind(Hello(9), 3)), 3, 9); });
  const Stream ended = TestRouter::ReadAll(*older);
  EXPECT_EQ(ended.status.error_code(), grpc::ABORTED);
  EXPECT_THAT(ended.status.error_message(), HasSubstr("another stream goes on"));
  ASSERT_TRUE(worker.WaitFor([](const auto& c) { return c.submits == 2 && c.live == 1; }));
  EXPECT_THAT(worker.counts().last_submit.generated(), ElementsAreArray(Tokens(3)));
  worker.SetManual(false);
  newer.join();
  EXPECT_TRUE(router.frontend().WaitIdle(10s));
  EXPECT_EQ(router.frontend().stats().requests, 0);
}

TEST(RouterReattach, GivesALiveRequestsSeedToWhoDoesNotSendIt) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  v1::GenerateRequest request = Hello(6);
  request.mutable_sampling()->clear_seed();
  grpc::ClientContext context;
  const auto older = router.stub().Generate(&context, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  worker.Step();
  v1::GenerateResponse first;
  ASSERT_TRUE(older->Read(&first));
  Stream rest;
  std::thread newer([&] { rest = router.Generate(Behind(request, 1)); });
  EXPECT_EQ(TestRouter::ReadAll(*older).status.error_code(), grpc::ABORTED);
  worker.SetManual(false);
  newer.join();
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message();
  EXPECT_EQ(rest.messages[0].seed(), first.seed());
  EXPECT_EQ(first.text() + rest.text, HashedText("hello", first.seed(), 6));
}

TEST(RouterReattach, BeginsSeveralCompletionsAnew) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  v1::GenerateRequest request = Hello(3);
  request.set_n(2);
  grpc::ClientContext context;
  const auto older = router.stub().Generate(&context, request);
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 2; }));
  std::thread newer([&] {
    const Stream stream = router.Generate(request);
    EXPECT_TRUE(stream.status.ok()) << stream.status.error_message();
    EXPECT_EQ(stream.tokens.size(), 6u);
  });
  EXPECT_EQ(TestRouter::ReadAll(*older).status.error_code(), grpc::ABORTED);
  worker.SetManual(false);
  newer.join();
}

struct Refusal {
  const char* name;
  std::function<void(v1::GenerateRequest&)> change;
  const char* message;
  grpc::StatusCode code = grpc::INVALID_ARGUMENT;
};

// Against a live request "mine" of nine tokens.
TEST(RouterReattach, RefusesWhatIsNotTheSameRequestOrCannotBe) {
  FakeWorker worker({.manual = true});
  TestRouter router({&worker});
  grpc::ClientContext context;
  const auto live = router.stub().Generate(&context, Hello(9));
  ASSERT_TRUE(worker.WaitFor([](const auto& counts) { return counts.live == 1; }));
  const std::vector<Refusal> refusals = {
      {"another seed", [](auto& r) { r.mutable_sampling()->set_seed(2); }, "another request",
       grpc::ALREADY_EXISTS},
      {"another prompt", [](auto& r) { r.mutable_prompt()->set_text("hell"); }, "another request",
       grpc::ALREADY_EXISTS},
      {"other options", [](auto& r) { r.mutable_stopping()->set_min_tokens(1); }, "another request",
       grpc::ALREADY_EXISTS},
      {"more than it may have",
       [](auto& r) {
         r.set_request_id("");
         r.set_resume_from(10);
       },
       "resume_from is 10, max_tokens is 9"},
      {"fewer ids than tokens",
       [](auto& r) {
         r.set_resume_from(2);
         r.add_received_token_ids(1);
       },
       "received_token_ids has 1 tokens, resume_from is 2"},
      {"ids of no token",
       [](auto& r) {
         r.set_resume_from(1);
         r.add_received_token_ids(1u << 30);
       },
       "received_token_ids[0] is 1073741824"},
      {"one of several completions",
       [](auto& r) {
         r.set_n(2);
         r.set_resume_from(1);
       },
       "of 2 completions ask for each alone"},
      {"no seed",
       [](auto& r) {
         r.set_request_id("other");
         r.set_resume_from(1);
         r.mutable_sampling()->clear_seed();
       },
       "resume_from needs sampling.seed"},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.name);
    v1::GenerateRequest request = Hello(9);
    refusal.change(request);
    const Stream stream = router.Generate(request);
    EXPECT_EQ(stream.status.error_code(), refusal.code);
    EXPECT_THAT(stream.status.error_message(), HasSubstr(refusal.message));
  }
  worker.SetManual(false);
  EXPECT_TRUE(TestRouter::ReadAll(*live).status.ok()) << "none of them touched it";
}

TEST(RouterReattach, SaysSoIfTheOutputIsShorterThanWhatTheClientHas) {
  FakeWorker worker({.token = Says("end")});
  TestRouter router({&worker});
  const Stream stream = router.Generate(Behind(Hello(30), 7));
  EXPECT_EQ(stream.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(stream.status.error_message(), HasSubstr("the whole output has 4 tokens"));
}

}  // namespace
}  // namespace conclave::testing
