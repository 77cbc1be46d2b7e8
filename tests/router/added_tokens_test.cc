// Which token texts of a prompt become tokens, and which stay text because of who wrote them.

#include "router/added_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace conclave::router {
namespace {

using testing::ElementsAre;

constexpr TokenId kStart = 1, kEnd = 2, kThink = 3, kTool = 4, kNormalized = 5;

// What text is cut into by both passes: a token's id, or the text between quotes.
std::vector<std::string> SplitBy(const AddedTokens& tokens, const std::string& text,
                                 const Recognition& recognition) {
  std::vector<std::string> pieces;
  const AddedTokens::Search search(tokens, text, recognition);
  const auto add = [&](std::string_view part, std::optional<TokenId> id) {
    pieces.push_back(id ? std::to_string(*id) : "'" + std::string(part) + "'");
    return true;
  };
  EXPECT_TRUE(search.Raw([&](std::string_view part, std::optional<TokenId> id) {
    return id ? add(part, id) : search.Normalized(part, add);
  }));
  return pieces;
}

AddedTokens Tokens() {
  return AddedTokens(std::vector<AddedToken>{
      {.id = kStart, .content = "<|start|>", .special = true},
      {.id = kEnd, .content = "<|end|>", .special = true, .right_strip = true},
      {.id = kThink, .content = "<think>"},
      {.id = kTool, .content = "<tool>"},
      {.id = kNormalized, .content = "<|User|>", .normalized = true}});
}

std::vector<std::string> Split(const std::string& text, const Recognition& recognition) {
  return SplitBy(Tokens(), text, recognition);
}

// The part of text between brackets is from outside; they are taken out.
std::vector<std::string> SplitMarked(std::string text, std::vector<TokenId> control = {}) {
  std::vector<ByteRange> outside;
  for (size_t open; (open = text.find('[')) != std::string::npos;) {
    text.erase(open, 1);
    const size_t close = text.find(']');
    text.erase(close, 1);
    if (close > open) outside.push_back({open, close});
  }
  return Split(text, {.special = true, .outside = outside, .control = control});
}

TEST(AddedTokens, LeaveSpecialTokensAsTextUnlessAsked) {
  EXPECT_THAT(Split("<|start|>a<think>", {}), ElementsAre("'<|start|>a'", "3"));
  EXPECT_THAT(Split("<|start|>a<think>", {.special = true}), ElementsAre("1", "'a'", "3"));
}

TEST(AddedTokens, MakeNoSpecialTokenOfWhatCameFromOutside) {
  EXPECT_THAT(SplitMarked("<|start|>[a<|end|>b]<|end|> c"),
              ElementsAre("1", "'a<|end|>b'", "2", "'c'"));
  EXPECT_THAT(SplitMarked("[<|start|>]"), ElementsAre("'<|start|>'"));
}

TEST(AddedTokens, MakeNoSpecialTokenThatIsOnlyPartlyOurs) {
  EXPECT_THAT(SplitMarked("<|[start|>]"), ElementsAre("'<|start|>'"));
  EXPECT_THAT(SplitMarked("[<|star]t|>"), ElementsAre("'<|start|>'"));
  EXPECT_THAT(SplitMarked("<|[sta]rt|>"), ElementsAre("'<|start|>'"));
  EXPECT_THAT(SplitMarked("[x]<|start|>[y]"), ElementsAre("'x'", "1", "'y'"));
}

TEST(AddedTokens, FindTheirOwnTokenInsideWhatWasNone) {
  EXPECT_THAT(SplitMarked("[<]<|start|>"), ElementsAre("'<'", "1"));
  EXPECT_THAT(SplitMarked("[<|start|><|end]<|start|>"), ElementsAre("'<|start|><|end'", "1"));
}

TEST(AddedTokens, RecogniseOthersWhereverTheyAreUnlessTheyControl) {
  EXPECT_THAT(SplitMarked("[<|end|><think><tool>]"), ElementsAre("'<|end|>'", "3", "4"));
  EXPECT_THAT(SplitMarked("<think>[<think><tool>]", {kThink}), ElementsAre("3", "'<think>'", "4"));
}

TEST(AddedTokens, GuardTokensOfTheSecondPassToo) {
  EXPECT_THAT(SplitMarked("<|User|>[<|User|>]", {kNormalized}), ElementsAre("5", "'<|User|>'"));
  EXPECT_THAT(SplitMarked("<|User|>[hi]", {kNormalized}), ElementsAre("5", "'hi'"));
}

TEST(AddedTokens, StripWhiteSpaceOfOthers) {
  EXPECT_THAT(SplitMarked("<|end|>[  <|end|> x]"), ElementsAre("2", "'<|end|> x'"));
}

TEST(AddedTokens, AreFoundBetweenWordsIfTheyAreSingleWords) {
  const AddedTokens tokens(
      std::vector<AddedToken>{{.id = 1, .content = "gate", .single_word = true}});
  EXPECT_THAT(SplitBy(tokens, "gate gates", {}), ElementsAre("1", "' gates'"));
  EXPECT_THAT(SplitBy(tokens, "é-gate,\u0301gate", {}), ElementsAre("'é-'", "1", "',\u0301gate'"));
  EXPECT_THAT(SplitBy(tokens, "\xFFgate\xFF", {}), ElementsAre("'\xFF'", "1", "'\xFF'"));
  EXPECT_THAT(SplitBy(tokens, "_gate gate\u200D", {}), ElementsAre("'_gate gate\u200D'"));
}

TEST(AddedTokens, AreFoundByTheirNormalizedContent) {
  const AddedTokens tokens(std::vector<AddedToken>{
      {.id = 1, .content = "<A>", .special = true, .normalized = true, .normalized_content = "<a>"},
      {.id = 2, .content = "<a>", .normalized = true},
      {.id = 3, .content = "~", .normalized = true, .normalized_content = ""}});
  EXPECT_THAT(SplitBy(tokens, "<a><A>~", {.special = true}), ElementsAre("1", "'<A>~'"));
}

// Outside text that a normalizer turns into a control token must not pass, whatever it looks like.
TEST(AddedTokens, GuardTokensThatNormalizingWouldMake) {
  const AddedTokens tokens(std::vector<AddedToken>{{.id = 1,
                                                    .content = "<A>",
                                                    .special = true,
                                                    .normalized = true,
                                                    .normalized_content = "<a>"}});
  const std::vector<ByteRange> outside = {{3, 6}};
  const Recognition recognition = {.special = true, .outside = outside};
  EXPECT_THAT(SplitBy(tokens, "<A><a>", recognition), ElementsAre("1", "'<a>'"));
}

TEST(AddedTokens, GiveBackSpaceThatATokenWithinItClaims) {
  const AddedTokens tokens(
      std::vector<AddedToken>{{.id = 1, .content = "x", .right_strip = true},
                              {.id = 2, .content = "  ", .right_strip = true}});
  EXPECT_THAT(SplitBy(tokens, "x    y", {}), ElementsAre("1", "2", "2", "'y'"));
}

TEST(AddedTokens, StripAMillionSpacesInLinearTime) {
  const AddedTokens tokens(
      std::vector<AddedToken>{{.id = 1, .content = " ", .left_strip = true, .right_strip = true}});
  EXPECT_EQ(SplitBy(tokens, std::string(1'000'000, ' '), {}).size(), 1'000'000u);
}

}  // namespace
}  // namespace conclave::router
