#include "router/transcript.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/router/tiny_tokenizer.h"

namespace conclave::router {
namespace {

using conclave::testing::kEos;
using conclave::testing::TinyTokenizer;
using scheduler::FinishReason;
using scheduler::TokenId;
using ::testing::ElementsAre;

class TranscriptTest : public ::testing::Test {
 protected:
  Transcript Make(std::vector<std::string> stops = {}, int32_t min_tokens = 0) {
    std::string error;
    auto made = StopStrings::Create(std::move(stops), {}, &error);
    EXPECT_TRUE(made) << error;
    return Transcript(tokenizer_.get(), *std::move(made), 3, min_tokens);
  }
  static SequenceEvent Says(const std::string& text) {
    SequenceEvent event;
    for (const char c : text) event.tokens.push_back(static_cast<unsigned char>(c));
    return event;
  }
  static SequenceEvent Ends(const std::string& text, FinishReason reason) {
    SequenceEvent event = Says(text);
    event.end = reason;
    return event;
  }

  std::shared_ptr<const Tokenizer> tokenizer_ = TinyTokenizer();
};

TEST_F(TranscriptTest, GivesTextWithItsTokens) {
  Transcript transcript = Make();
  EXPECT_FALSE(transcript.started());
  const Delta delta = transcript.Take(Says("ab"));
  EXPECT_EQ(delta.text, "ab");
  EXPECT_THAT(delta.tokens, ElementsAre('a', 'b'));
  EXPECT_FALSE(delta.finish);
  EXPECT_TRUE(transcript.started());
}

TEST_F(TranscriptTest, KeepsACharacterUntilItIsWhole) {
  Transcript transcript = Make();
  EXPECT_EQ(transcript.Take(Says("\xe2")).text, "");
  EXPECT_EQ(transcript.Take(Says("\x82")).text, "");
  EXPECT_EQ(transcript.Take(Says("\xac")).text, "\xe2\x82\xac");
}

TEST_F(TranscriptTest, LooksForNoStopStringInItsFirstTokens) {
  for (const std::string piece : {"x.y.z.", "x."}) {  // in one event, or a few
    Transcript transcript = Make({"."}, 4);
    std::string text;
    for (size_t i = 0; i < 6; i += piece.size()) {
      text += transcript.Take(Says(std::string("x.y.z.").substr(i, piece.size()))).text;
    }
    EXPECT_EQ(text, "x.y.z") << "four tokens pass, the sixth stops";
    EXPECT_TRUE(transcript.finished());
    EXPECT_EQ(transcript.tokens().size(), 6u);
  }
  Transcript exactly = Make({"."}, 1);
  EXPECT_EQ(exactly.Take(Says("x.y")).text, "x") << "the second token may stop";
}

TEST_F(TranscriptTest, EndsWithWhatWasHeldBack) {
  Transcript transcript = Make({"stop!"});
  EXPECT_EQ(transcript.Take(Says("a sto")).text, "a ");
  const Delta delta = transcript.Take(Ends("\xe2", FinishReason::kLength));
  EXPECT_EQ(delta.text, "sto\xef\xbf\xbd");
  ASSERT_TRUE(delta.finish);
  EXPECT_EQ(delta.finish->reason, FinishReason::kLength);
  EXPECT_EQ(delta.finish->prompt_tokens, 3);
  EXPECT_EQ(delta.finish->completion_tokens, 6);
  EXPECT_TRUE(transcript.finished());
}

TEST_F(TranscriptTest, CountsWhatOfThePromptWasFoundAtMostAllOfIt) {
  for (const uint32_t cached : {0u, 2u, 4000000000u}) {
    Transcript transcript = Make();
    SequenceEvent first = Says("a");
    first.cached_prompt_tokens = cached;
    transcript.Take(std::move(first));
    const Delta delta = transcript.Take(Ends("b", FinishReason::kLength));
    EXPECT_EQ(delta.finish->cached_prompt_tokens, std::min(cached, 3u));
  }
}

TEST_F(TranscriptTest, ReportsTheTokenThatStoppedItAndLeavesOutItsText) {
  Transcript transcript = Make();
  const Delta delta = transcript.Take(Ends("ab.", FinishReason::kStop));
  EXPECT_EQ(delta.text, "ab");
  EXPECT_THAT(delta.tokens, ElementsAre('a', 'b', '.'));
  EXPECT_EQ(delta.finish->stop_token, TokenId{'.'});
  EXPECT_EQ(delta.finish->stop_string, "");
}

TEST_F(TranscriptTest, EndsWithinAnEventAtAStopString) {
  Transcript transcript = Make({"xy"});
  SequenceEvent event = Ends("axyb", FinishReason::kLength);
  for (const TokenId token : event.tokens) event.logprobs.push_back({.token = token});
  const Delta delta = transcript.Take(std::move(event));
  EXPECT_EQ(delta.text, "a");
  EXPECT_THAT(delta.tokens, ElementsAre('a', 'x', 'y'));
  EXPECT_EQ(delta.logprobs.size(), 3u);
  EXPECT_EQ(delta.finish->reason, FinishReason::kStop);
  EXPECT_EQ(delta.finish->stop_string, "xy");
  EXPECT_EQ(delta.finish->completion_tokens, 3);
  EXPECT_TRUE(transcript.Take(Says("more")).empty());
  EXPECT_EQ(transcript.tokens().size(), 3u);
}

TEST_F(TranscriptTest, SkipsSpecialTokensInTheTextOnly) {
  Transcript transcript = Make();
  SequenceEvent event = Says("ab");
  event.tokens.insert(event.tokens.begin() + 1, kEos);
  const Delta delta = transcript.Take(std::move(event));
  EXPECT_EQ(delta.text, "ab");
  EXPECT_EQ(delta.tokens.size(), 3u);
}

TEST_F(TranscriptTest, PassesAScoreThrough) {
  Transcript transcript = Make();
  SequenceEvent event;
  event.prompt_logprobs = {{.token = 1, .logprob = -2}};
  event.end = FinishReason::kScored;
  const Delta delta = transcript.Take(std::move(event));
  EXPECT_EQ(delta.prompt_logprobs.size(), 1u);
  EXPECT_EQ(delta.finish->reason, FinishReason::kScored);
  EXPECT_FALSE(delta.finish->stop_token);
}

TEST_F(TranscriptTest, MakesTokensWithoutATokenizer) {
  std::string error;
  Transcript transcript(nullptr, *StopStrings::Create({}, {}, &error), 1);
  const Delta delta = transcript.Take(Ends("abc", FinishReason::kLength));
  EXPECT_EQ(delta.text, "");
  EXPECT_EQ(delta.tokens.size(), 3u);
}

TEST_F(TranscriptTest, SaysTheSameHoweverItIsCut) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::string bytes;
    while (bytes.size() < 40) bytes += "abab\xc3\xa4\xe2\x82\xac\xff"[random() % 10];
    Transcript whole = Make({"bab", "\xc3\xa4"});
    const Delta expected = whole.Take(Ends(bytes, FinishReason::kLength));

    Transcript pieces = Make({"bab", "\xc3\xa4"});
    Delta joined;
    for (size_t at = 0; at < bytes.size() && !pieces.finished();) {
      const size_t count = std::min<size_t>(1 + random() % 5, bytes.size() - at);
      SequenceEvent event = Says(bytes.substr(at, count));
      at += count;
      if (at == bytes.size()) event.end = FinishReason::kLength;
      joined.Append(pieces.Take(std::move(event)));
    }
    EXPECT_EQ(joined.text, expected.text);
    EXPECT_EQ(joined.tokens, expected.tokens);
    ASSERT_TRUE(joined.finish);
    EXPECT_EQ(joined.finish->stop_string, expected.finish->stop_string);
  }
}

}  // namespace
}  // namespace conclave::router
