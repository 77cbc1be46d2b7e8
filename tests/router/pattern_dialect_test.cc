#include "router/pattern_dialect.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "router/text_pattern.h"

namespace conclave::router {
namespace {

std::string Translated(const std::string& pattern) {
  std::string error;
  return ToPcre2(pattern, &error).value_or("error: " + error);
}

// The parts that pattern cuts text into, matches in brackets.
std::string Cut(const std::string& pattern, const std::string& text) {
  std::string error, parts;
  const auto compiled = TextPattern::Regex(pattern, &error);
  if (!compiled) return error;
  TextPattern::Scratch scratch;
  compiled->Cut(
      text, scratch,
      [&](size_t begin, size_t end, bool matched) {
        const std::string part = text.substr(begin, end - begin);
        parts += matched ? "[" + part + "]" : part;
        return true;
      },
      &error);
  return parts + error;
}

TEST(PatternDialect, LeavesWhatBothReadAlike) {
  for (const char* pattern : {"", "a|b", R"(\\s[^\]]+)", "[[:alpha:]]", "[]a]x", R"(\[\()",
                              R"((?i:'s|'t)?(?=a)(?<!b)(?<c>d)(?>e))", R"(\x{41}\x42\p{Han}é+?)",
                              "a{2}b{2,}c{2,3}?", "a++b*+|x{", R"(\)"}) {
    EXPECT_EQ(Translated(pattern), pattern);
  }
}

TEST(PatternDialect, RewritesSpacesInAndOutOfClasses) {
  EXPECT_EQ(Translated(R"(\s+(?!\S)|\s+)"),
            R"([\t-\r\x{85}\p{Z}]+(?![^\t-\r\x{85}\p{Z}])|[\t-\r\x{85}\p{Z}]+)");
  EXPECT_EQ(Translated(R"([^\sx])"), R"([^\t-\r\x{85}\p{Z}x])");
  EXPECT_EQ(Cut(R"([^\S\n]+)", "a \t\n b"), "a[ \t]\n[ ]b");
}

TEST(PatternDialect, KnowsTheCharactersThatUnicodeHasGotSince) {
  EXPECT_EQ(Cut(R"(\p{Lu})", "\u1C89\u1C8A"), "[\u1C89]\u1C8A");
  EXPECT_EQ(Cut(R"([\p{Ll}x]+)", "\u1C89\u1C8Ax"), "\u1C89[\u1C8Ax]");
  EXPECT_EQ(Cut(R"(\P{L}+)", "\u1C89-"), "\u1C89[-]");
  EXPECT_EQ(Cut(R"(\p{^L}+)", "\u1C89-"), "\u1C89[-]");
  EXPECT_EQ(Cut(R"(\p{M}+)", "e\u0897"), "e[\u0897]");
  EXPECT_EQ(Cut(R"(\w+)", "\u24B6\u00B2\u09F4\u203F\U00010D40"),
            "[\u24B6\u00B2]\u09F4[\u203F\U00010D40]");
}

TEST(PatternDialect, EndsWordsWhereTheirCharactersEnd) {
  EXPECT_EQ(Cut(R"(\b\w+\b)", "a e\u0301 \u00B2b"), "[a] [e\u0301] [\u00B2b]");
  EXPECT_EQ(Cut(R"(\Ba)", "aa a"), "a[a] a");
  EXPECT_EQ(Cut(R"(e\b)", "e\u0301 e"), "e\u0301 [e]");
}

TEST(PatternDialect, TakesLineAnchorsAndQuantifiersForOnigurumas) {
  EXPECT_EQ(Cut("a$", "a\nba"), "[a]\nb[a]");
  EXPECT_EQ(Cut("^a", "a\na"), "[a]\n[a]");
  EXPECT_EQ(Cut("a{2}+", "aaaaa"), "[aaaa]a");
  EXPECT_EQ(Cut("(?:ab){1}?c", "cabc"), "[c][abc]");
  EXPECT_EQ(Cut("a{,2}b", "aaab"), "a[aab]");
  EXPECT_EQ(Cut(R"(\h+\H)", "0aFg"), "[0aFg]");
  EXPECT_EQ(Cut(R"(\v\u0041)", "\vA\n"), "[\vA]\n");
}

TEST(PatternDialect, FindsNothingBehindAMatchOnce) {
  EXPECT_EQ(Cut("a*", "baac"), "[]b[aa]c[]");
  EXPECT_EQ(Cut("x?", "é"), "[]é[]");
}

TEST(PatternDialect, TriesARunOnlyFromItsBeginning) {
  EXPECT_EQ(Translated("x+$"), "(?:\\G|(?<!x))x+$");
  EXPECT_EQ(Translated("y|[ab]*c"), "y|(?:\\G|(?<![ab]))[ab]*c");
  EXPECT_EQ(Translated("x*y|x+"), "x*y|x+");  // the run is matched anyway
  EXPECT_EQ(Translated("x+?$"), "x+?$");
  EXPECT_EQ(Cut(R"(\s+$)", "  a  \n  b  "), "  a[  ]\n  b[  ]");
  EXPECT_EQ(Cut("x+y|xz", "xxxz xxy"), "xx[xz] [xxy]");
}

TEST(PatternDialect, RefusesWhatPcre2Cannot) {
  EXPECT_EQ(Translated("[a[b]]"),
            "error: nests or intersects character classes, which is not supported");
  EXPECT_EQ(Translated("[a-z&&b]"),
            "error: nests or intersects character classes, which is not supported");
  EXPECT_EQ(Translated("(?m:.)"), "error: sets the option m, which is not supported");
}

TEST(PatternDialect, MatchesAMillionSpacesInLinearTime) {
  constexpr size_t kMillion = 1'000'000;
  const std::string text = std::string(kMillion, ' ') + "a";
  EXPECT_EQ(Cut(R"(\s+$)", text), text);
}

}  // namespace
}  // namespace conclave::router
