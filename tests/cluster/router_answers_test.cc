// What a router answers: real services and wire on the loopback, workers without a model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/cluster/test_router.h"

namespace conclave::testing {
namespace {

using ::testing::ElementsAre;

TEST(Router, StreamsAndFinishes) {
  FakeWorker worker;
  TestRouter router({&worker});
  const Stream stream = router.Generate(TextRequest("hello", 20));
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, HashedText("hello", 1, 20));
  EXPECT_EQ(stream.tokens.size(), 20u);
  EXPECT_NE(stream.messages.front().request_id(), "");
  EXPECT_EQ(stream.messages.front().seed(), 1u);
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(stream.last.usage().prompt_tokens(), 5u);
  EXPECT_EQ(stream.last.usage().completion_tokens(), 20u);
  EXPECT_FALSE(stream.last.has_stop_token_id());
}

TEST(Router, DrawsASeedAndReportsIt) {
  FakeWorker worker;
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("hello", 20);
  request.mutable_sampling()->clear_seed();
  const Stream stream = router.Generate(request);
  ASSERT_TRUE(stream.messages.front().has_seed());
  EXPECT_EQ(stream.text, HashedText("hello", stream.messages.front().seed(), 20));
  EXPECT_NE(router.Generate(request).messages.front().seed(), stream.messages.front().seed());
}

TEST(Router, StopsAtTheModelsEndWithoutItsText) {
  FakeWorker worker({.token = Says("well.")});
  TestRouter router({&worker});
  const Stream stream = router.Generate(TextRequest("x", 100));
  EXPECT_EQ(stream.text, "well.");
  EXPECT_THAT(stream.tokens, ElementsAre('w', 'e', 'l', 'l', '.', kEos));
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stream.last.stop_token_id(), kEos);
}

TEST(Router, GoesPastTheModelsEndWhenTold) {
  FakeWorker worker({.token = Says("well.")});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 8);
  request.mutable_stopping()->set_ignore_eos(true);
  const Stream stream = router.Generate(request);
  EXPECT_EQ(stream.tokens.size(), 8u);
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST(Router, StopsAtAStopTokenOfTheRequest) {
  FakeWorker worker({.token = Says("abcdef")});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 100);
  request.mutable_stopping()->add_stop_token_ids('d');
  const Stream stream = router.Generate(request);
  EXPECT_EQ(stream.text, "abc");
  EXPECT_EQ(stream.last.stop_token_id(), static_cast<uint32_t>('d'));
}

TEST(Router, CutsTheTextAtAStopStringAndEndsTheSequence) {
  FakeWorker worker({.token = [](const v1::Submit&, uint32_t i) {
    const std::string text = "one two three ";
    return static_cast<unsigned char>(text[i % text.size()]);
  }});
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("x", 4000);
  request.mutable_stopping()->add_stop("two th");
  request.set_logprobs(0);
  const Stream stream = router.Generate(request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_EQ(stream.text, "one ");
  EXPECT_EQ(stream.tokens.size(), 10u);
  EXPECT_EQ(stream.logprobs.size(), 10u);
  EXPECT_EQ(stream.last.stop_string(), "two th");
  EXPECT_EQ(stream.last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stream.last.usage().completion_tokens(), 10u);
  EXPECT_TRUE(
      worker.WaitFor([](const auto& counts) { return counts.cancels == 1 && counts.live == 0; }));
}

TEST(Router, NeverSendsHalfACharacter) {
  const std::string text = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82z";
  FakeWorker worker({.token = Says(text)});
  TestRouter router({&worker});
  const Stream stream = router.Generate(TextRequest("x", 100));
  EXPECT_EQ(stream.text, text);
  for (const v1::GenerateResponse& message : stream.messages) {
    const std::string& piece = message.text();
    EXPECT_TRUE(piece.empty() || (static_cast<unsigned char>(piece[0]) & 0xc0) != 0x80) << piece;
  }
}

TEST(Router, ReplacesACharacterThatNeverEnds) {
  FakeWorker worker({.token = Says("ok\xe2\x82\xac")});
  TestRouter router({&worker});
  EXPECT_EQ(router.Generate(TextRequest("x", 4)).text, "ok\xef\xbf\xbd");
}

TEST(Router, SendsLogprobsWithTheirTokens) {
  FakeWorker worker;
  TestRouter router({&worker});
  v1::GenerateRequest request = TextRequest("hello", 9);
  request.set_logprobs(3);
  request.set_prompt_logprobs(true);
  const Stream stream = router.Generate(request);
  size_t prompt_logprobs = 0;
  for (const v1::GenerateResponse& message : stream.messages) {
    EXPECT_EQ(message.logprobs_size(), message.token_ids_size());
    prompt_logprobs += static_cast<size_t>(message.prompt_logprobs_size());
  }
  EXPECT_EQ(prompt_logprobs, 4u);
  ASSERT_EQ(stream.logprobs.size(), 9u);
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(stream.logprobs[i].token_id(), stream.tokens[i]);
    EXPECT_EQ(stream.logprobs[i].top_size(), 3);
  }
}

TEST(Router, ScoresAPrompt) {
  FakeWorker worker;
  TestRouter router({&worker});
  v1::ScoreRequest request;
  request.set_request_id("score-1");
  request.mutable_prompt()->set_text("hello");
  grpc::ClientContext context;
  const auto reader = router.stub().Score(&context, request);
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;
  std::string id;
  bool done = false;
  v1::ScoreResponse message;
  while (reader->Read(&message)) {
    EXPECT_FALSE(done);
    id += message.request_id();
    tokens.insert(tokens.end(), message.token_ids().begin(), message.token_ids().end());
    for (const auto& logprob : message.logprobs()) logprobs.push_back(logprob.logprob());
    done = message.done();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(done);
  EXPECT_EQ(id, "score-1");
  EXPECT_THAT(tokens, ElementsAre('h', 'e', 'l', 'l', 'o'));
  EXPECT_THAT(logprobs, ElementsAre(-0.5f, -1.0f, -1.5f, -2.0f));
}

TEST(Router, TokenizesAndDetokenizes) {
  FakeWorker worker;
  TestRouter router({&worker});
  for (const std::string& text : {std::string("a\0\xff<eos>", 8), std::string(9000, 'b')}) {
    v1::TokenizeRequest request;
    request.mutable_prompt()->set_text(text);
    v1::TokenizeResponse tokens;
    grpc::ClientContext context;
    ASSERT_TRUE(router.stub().Tokenize(&context, request, &tokens).ok());
    EXPECT_EQ(tokens.token_ids_size(), static_cast<int>(text.size()));
    EXPECT_EQ(tokens.tokens(1), text.substr(1, 1));
    v1::DetokenizeRequest back;
    *back.mutable_token_ids() = tokens.token_ids();
    v1::DetokenizeResponse response;
    grpc::ClientContext context2;
    ASSERT_TRUE(router.stub().Detokenize(&context2, back, &response).ok());
    EXPECT_EQ(response.text(), text);
  }
  v1::TokenizeRequest special;
  special.mutable_prompt()->set_text("a<eos>");
  special.mutable_prompt()->set_parse_special(true);
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(router.stub().Tokenize(&context, special, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre('a', kEos));
}

TEST(Router, ListsTheModelAndAnswersOnlyToItsName) {
  FakeWorker worker;
  TestRouter router({&worker}, {.homes = {.model_name = "served"}});
  v1::ListModelsResponse models;
  grpc::ClientContext context;
  ASSERT_TRUE(router.stub().ListModels(&context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), "served");
  EXPECT_EQ(models.models(0).context_limit(), 4096u);
  v1::GenerateRequest request = TextRequest("x", 1);
  request.set_model("served");
  EXPECT_TRUE(router.Generate(request).status.ok());
  request.set_model("other");
  const grpc::Status status = router.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "model 'other' is not served here, 'served' is");
}

TEST(Router, ServesSixtyFourMixedRequestsAsIfAlone) {
  FakeWorker worker;
  TestRouter router({&worker});
  std::vector<std::thread> clients;
  std::atomic<int> good = 0;
  for (int i = 0; i < 64; ++i) {
    clients.emplace_back([&, i] {
      const std::string prompt = "prompt " + std::to_string(i);
      v1::GenerateRequest request = TextRequest(prompt, 1 + static_cast<uint32_t>(i) * 3);
      request.mutable_sampling()->set_seed(static_cast<uint64_t>(i) % 5);
      if (i % 2 == 0) request.set_logprobs(static_cast<uint32_t>(i) % 20);
      const Stream stream = router.Generate(request);
      const auto expected =
          HashedText(prompt, static_cast<uint64_t>(i) % 5, 1 + static_cast<uint32_t>(i) * 3);
      good += stream.status.ok() && stream.text == expected &&
              stream.last.finish_reason() == v1::FINISH_REASON_LENGTH;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 64);
  EXPECT_EQ(worker.counts().live, 0u);
}

}  // namespace
}  // namespace conclave::testing
