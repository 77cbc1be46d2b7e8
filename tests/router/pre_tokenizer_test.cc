#include "router/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "router/added_tokens.h"
#include "router/symbols.h"

namespace conclave::router {
namespace {

using Stage = PreTokenizer::Stage;
using Kind = PreTokenizer::Stage::Kind;
using Behavior = PreTokenizer::Behavior;

// The words of text, each behind a bar.
std::string Words(const std::string& text, std::vector<Stage> stages,
                  PieceStart start = PieceStart::kText) {
  TextPattern::Scratch scratch;
  std::string words, error;
  PreTokenizer(std::move(stages))
      .Split(
          text, start, scratch,
          [&words](std::string_view word) { words += "|" + std::string(word); }, &error);
  return words + error;
}

Stage SplitBy(const std::string& regex, Behavior behavior, bool inverted = false) {
  std::string error;
  return {.kind = Kind::kSplit,
          .behavior = behavior,
          .inverted = inverted,
          .pattern = {*TextPattern::Regex(regex, &error)}};
}

TEST(PreTokenizer, GivesWholeTextWithoutStagesAndNothingOfNothing) {
  EXPECT_EQ(Words("a b", {}), "|a b");
  EXPECT_EQ(Words("", {{.kind = Kind::kPrefixSpace}}), "");
}

// The example of tokenizers' documentation.
TEST(PreTokenizer, JoinsMatchesAsItsBehaviorSays) {
  const std::string text = "the-final--countdown";
  EXPECT_EQ(Words(text, {SplitBy("-", Behavior::kRemoved)}), "|the|final|countdown");
  EXPECT_EQ(Words(text, {SplitBy("-", Behavior::kIsolated)}), "|the|-|final|-|-|countdown");
  EXPECT_EQ(Words(text, {SplitBy("-", Behavior::kMergedWithPrevious)}), "|the-|final-|-|countdown");
  EXPECT_EQ(Words(text, {SplitBy("-", Behavior::kMergedWithNext)}), "|the|-final|-|-countdown");
  EXPECT_EQ(Words(text, {SplitBy("-", Behavior::kContiguous)}), "|the|-|final|--|countdown");
  EXPECT_EQ(Words("-a-", {SplitBy("-", Behavior::kMergedWithNext)}), "|-a|-");
  EXPECT_EQ(Words("-a-", {SplitBy("-", Behavior::kMergedWithPrevious)}), "|-|a-");
}

TEST(PreTokenizer, TakesWhatDoesNotMatchIfInverted) {
  EXPECT_EQ(Words("a1b22", {SplitBy("[0-9]", Behavior::kRemoved, true)}), "|1|2|2");
  EXPECT_EQ(Words("a1b22", {SplitBy("[0-9]", Behavior::kContiguous, true)}), "|a|1|b|22");
}

TEST(PreTokenizer, SeesOnlyThePieceInEachStage) {
  EXPECT_EQ(Words("a  \nb",
                  {SplitBy("\\n", Behavior::kIsolated), SplitBy(R"(\s+$)", Behavior::kIsolated)}),
            "|a|  |\n|b");
}

TEST(PreTokenizer, SplitsDigitsOneByOneOrInRuns) {
  EXPECT_EQ(Words("a12٣b", {{.kind = Kind::kDigits, .behavior = Behavior::kIsolated}}),
            "|a|1|2|٣|b");
  EXPECT_EQ(Words("a12٣b", {{.kind = Kind::kDigits, .behavior = Behavior::kContiguous}}),
            "|a|12٣|b");
}

TEST(PreTokenizer, PutsASpaceBeforePiecesThatBegin) {
  const Stage space = {.kind = Kind::kPrefixSpace};
  EXPECT_EQ(Words("a", {space}), "| a");
  EXPECT_EQ(Words(" a", {space}), "| a");
  EXPECT_EQ(Words("a", {space}, PieceStart::kBroken), "|a");
  EXPECT_EQ(Words("a1b", {{.kind = Kind::kDigits}, space}, PieceStart::kBroken), "|a| 1| b");
}

TEST(PreTokenizer, TurnsSpacesIntoMetaspaces) {
  const auto metaspace = [](Stage::Prepend prepend, bool split) {
    return std::vector<Stage>{
        {.kind = Kind::kMetaspace, .replacement = "_", .prepend = prepend, .split = split}};
  };
  using Prepend = Stage::Prepend;
  EXPECT_EQ(Words("a  b", metaspace(Prepend::kAlways, true)), "|_a|_|_b");
  EXPECT_EQ(Words("a  b", metaspace(Prepend::kAlways, false)), "|_a__b");
  EXPECT_EQ(Words(" a", metaspace(Prepend::kAlways, true)), "|_a");
  EXPECT_EQ(Words("a", metaspace(Prepend::kFirst, true), PieceStart::kText), "|_a");
  EXPECT_EQ(Words("a", metaspace(Prepend::kFirst, true), PieceStart::kPiece), "|a");
  EXPECT_EQ(Words("a", metaspace(Prepend::kAlways, true), PieceStart::kPiece), "|_a");
  EXPECT_EQ(Words("a", metaspace(Prepend::kAlways, true), PieceStart::kBroken), "|a");
  EXPECT_EQ(Words("a b ", metaspace(Prepend::kNever, true)), "|a|_b|_");
}

Symbols CharacterSymbols(bool fallback, bool unknown, bool fuse) {
  Symbols::Characters characters;
  characters.tokens = {{U'a', 1}, {U'b', 2}};
  if (fallback) {
    characters.byte_fallback.emplace().fill(Symbols::kNone);
    for (const scheduler::TokenId byte : {0xC3, 0xA9, 0xFF}) {
      (*characters.byte_fallback)[static_cast<size_t>(byte)] = 1000 + byte;
    }
  }
  if (unknown) characters.unknown = 0;
  characters.fuse_unknown = fuse;
  return Symbols(characters);
}

std::vector<scheduler::TokenId> SymbolsOf(const Symbols& symbols, std::string_view word) {
  std::vector<scheduler::TokenId> ids;
  symbols.Append(word, &ids);
  return ids;
}

TEST(Symbols, PutSomethingInThePlaceOfUnknownCharacters) {
  using Ids = std::vector<scheduler::TokenId>;
  EXPECT_EQ(SymbolsOf(CharacterSymbols(false, false, false), "axxb"), (Ids{1, 2}));
  EXPECT_EQ(SymbolsOf(CharacterSymbols(false, true, false), "axxb"), (Ids{1, 0, 0, 2}));
  EXPECT_EQ(SymbolsOf(CharacterSymbols(false, true, true), "axxbx"), (Ids{1, 0, 2, 0}));
  EXPECT_EQ(SymbolsOf(CharacterSymbols(true, true, true), "aéb"), (Ids{1, 1195, 1169, 2}));
}

TEST(Symbols, TakeBytesThatAreNotUtf8ForCharactersOfNoVocabulary) {
  using Ids = std::vector<scheduler::TokenId>;
  EXPECT_EQ(SymbolsOf(CharacterSymbols(true, true, false), "a\xFF"), (Ids{1, 1255}));
  EXPECT_EQ(SymbolsOf(CharacterSymbols(true, true, false), "\xFE\xE4\xBD"), (Ids{0, 0, 0}));
  EXPECT_EQ(SymbolsOf(CharacterSymbols(false, false, false), "\xFF"), (Ids{}));
}

}  // namespace
}  // namespace conclave::router
