#include "worker/logit_edits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/sim/random.h"

namespace conclave::worker {
namespace {

using scheduler::TokenId;

std::map<TokenId, LogitEdit> ByToken(const LogitEdits& edits) {
  std::map<TokenId, LogitEdit> by_token;
  for (const LogitEdit& edit : edits.edits()) {
    EXPECT_TRUE(by_token.emplace(edit.token, edit).second) << "twice: " << edit.token;
  }
  return by_token;
}

TEST(LogitEdits, AreNoneForARequestThatAsksForNothing) {
  LogitEdits edits({.stop_tokens = {7}}, std::vector<TokenId>{1, 2, 3});
  edits.Append(1);
  EXPECT_TRUE(edits.edits().empty());
}

TEST(LogitEdits, OfPresenceAndFrequencyAreOfTheOutput) {
  for (const SequenceRequest& request :
       {SequenceRequest{.presence_penalty = 1.0f}, SequenceRequest{.frequency_penalty = -1.0f}}) {
    LogitEdits edits(request, std::vector<TokenId>{1, 2, 3});
    EXPECT_TRUE(edits.edits().empty());
    for (const TokenId token : {5, 1, 5}) edits.Append(token);
    const auto by_token = ByToken(edits);
    ASSERT_EQ(by_token.size(), 2u);
    EXPECT_EQ(by_token.at(5).count, 2);
    EXPECT_EQ(by_token.at(1).count, 1);
  }
}

TEST(LogitEdits, OfRepetitionAreOfPromptAndOutput) {
  LogitEdits edits({.repetition_penalty = 1.5f}, std::vector<TokenId>{1, 2, 1});
  edits.Append(9);
  const auto by_token = ByToken(edits);
  ASSERT_EQ(by_token.size(), 3u);
  for (const TokenId token : {1, 2, 9}) EXPECT_TRUE(by_token.at(token).seen) << token;
  EXPECT_EQ(by_token.at(1).count, 0) << "the prompt is no output";
}

TEST(LogitEdits, ForbidStopTokensForAsLongAsAsked) {
  LogitEdits edits({.logit_bias = {{7, 2.0f}}, .min_tokens = 2, .stop_tokens = {7, 8, 8}}, {});
  const auto forbidden = [&] {
    const auto all = edits.edits();
    return std::count_if(all.begin(), all.end(), [](const auto& edit) { return edit.forbidden; });
  };
  EXPECT_EQ(forbidden(), 2);
  edits.Append(1);
  EXPECT_EQ(forbidden(), 2);
  edits.Append(1);
  EXPECT_EQ(forbidden(), 0);
  EXPECT_EQ(ByToken(edits).at(7).bias, 2.0f);
}

// Whatever comes behind, the edits are those of having appended it.
TEST(LogitEdits, BehindTokensAreAsIfTheseWereAppended) {
  sim::Random random(5);
  for (int i = 0; i < 300; ++i) {
    SequenceRequest request = {.logit_bias = {{3, 1.0f}}, .stop_tokens = {7, 8}};
    if (i % 2 == 0) request.frequency_penalty = 0.5f;
    if (i % 3 == 0) request.repetition_penalty = 1.5f;
    request.min_tokens = random.Between(0, 9);
    std::vector<TokenId> tokens;
    for (int t = random.Between(0, 12); t > 0; --t) tokens.push_back(random.Between(0, 9));
    const size_t appended = static_cast<size_t>(random.Between(0, 12)) % (tokens.size() + 1);
    LogitEdits edits(request, std::vector<TokenId>{1, 2});
    for (size_t t = 0; t < appended; ++t) edits.Append(tokens[t]);
    const bool changes = edits.change();
    const std::vector<LogitEdit> unchanged(edits.edits().begin(), edits.edits().end());
    const std::vector<LogitEdit> behind = edits.Behind(std::span(tokens).subspan(appended));
    for (size_t t = appended; t < tokens.size(); ++t) edits.Append(tokens[t]);
    const auto equal = [](std::span<const LogitEdit> a, std::span<const LogitEdit> b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
        return x.token == y.token && x.bias == y.bias && x.count == y.count && x.seen == y.seen &&
               x.forbidden == y.forbidden;
      });
    };
    EXPECT_TRUE(equal(behind, edits.edits())) << i;
    if (!changes) {
      EXPECT_TRUE(equal(unchanged, edits.edits())) << i;
    }
  }
}

TEST(LogitEdits, AreWhatACountOfAllTokensGives) {
  sim::Random random(3);
  std::vector<TokenId> prompt, output;
  for (int i = 0; i < 200; ++i) prompt.push_back(random.Between(0, 50));
  LogitEdits edits({.repetition_penalty = 2.0f, .frequency_penalty = 1.0f}, prompt);
  for (int i = 0; i < 500; ++i) {
    output.push_back(random.Between(0, 80));
    edits.Append(output.back());
    const auto by_token = ByToken(edits);
    for (TokenId token = 0; token <= 80; ++token) {
      const auto count = std::count(output.begin(), output.end(), token);
      const bool seen = count > 0 || std::find(prompt.begin(), prompt.end(), token) != prompt.end();
      const auto found = by_token.find(token);
      ASSERT_EQ(seen, found != by_token.end());
      if (seen) {
        ASSERT_EQ(count, found->second.count);
      }
    }
  }
}

}  // namespace
}  // namespace conclave::worker
