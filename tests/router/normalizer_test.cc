#include "router/normalizer.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace conclave::router {
namespace {

using Step = Normalizer::Step;
using Kind = Normalizer::Step::Kind;

std::string Normalized(const std::string& text, std::vector<Step> steps, bool continues = false,
                       size_t bytes_max = 1000) {
  TextPattern::Scratch scratch;
  std::string result, error;
  const Normalizer normalizer(std::move(steps));
  return normalizer.Apply(text, continues, bytes_max, scratch, &result, &error) ? result : error;
}

Step Replace(const std::string& regex, const std::string& content) {
  std::string error;
  return {
      .kind = Kind::kReplace, .content = content, .pattern = {*TextPattern::Regex(regex, &error)}};
}

TEST(Normalizer, TakesItsStepsInOrder) {
  EXPECT_EQ(Normalized("A b ", {{.kind = Kind::kLowercase}, Replace(" ", "A")}), "aAbA");
  EXPECT_EQ(Normalized("A b ", {Replace(" ", "A"), {.kind = Kind::kLowercase}}), "aaba");
}

TEST(Normalizer, PrependsToWhatIsNotEmptyAndBegins) {
  const Step prepend = {.kind = Kind::kPrepend, .content = "_"};
  EXPECT_EQ(Normalized("a", {prepend}), "_a");
  EXPECT_EQ(Normalized("", {prepend}), "");
  EXPECT_EQ(Normalized("a", {prepend}, /*continues=*/true), "a");
}

TEST(Normalizer, StripsTheSidesItIsToldTo) {
  EXPECT_EQ(Normalized("\t a\u3000", {{.kind = Kind::kStrip, .left = true}}), "a\u3000");
  EXPECT_EQ(Normalized("\t a\u3000", {{.kind = Kind::kStrip, .right = true}}), "\t a");
  EXPECT_EQ(Normalized(" \n ", {{.kind = Kind::kStrip, .left = true, .right = true}}), "");
}

TEST(Normalizer, EndsBeyondItsLimit) {
  const Step prepend = {.kind = Kind::kPrepend, .content = "_"};
  EXPECT_EQ(Normalized("aa", {prepend}, false, 3), "_aa");
  EXPECT_EQ(Normalized("aaa", {prepend}, false, 3),
            "the text has, once normalized, more than 3 bytes");
  EXPECT_EQ(Normalized("aa", {Replace("a", "12")}, false, 3),
            "the text has, once normalized, more than 3 bytes");
}

TEST(UnicodeNormalization, ComposesAndDecomposes) {
  EXPECT_EQ(NormalizeUnicode("e\u0301", UnicodeForm::kNfc), "é");
  EXPECT_EQ(NormalizeUnicode("é", UnicodeForm::kNfd), "e\u0301");
  EXPECT_EQ(NormalizeUnicode("\u1100\u1161\u11A8", UnicodeForm::kNfc), "\uAC01");
  EXPECT_EQ(NormalizeUnicode("\uAC01", UnicodeForm::kNfd), "\u1100\u1161\u11A8");
  EXPECT_EQ(NormalizeUnicode("ﬁ²", UnicodeForm::kNfkc), "fi2");
  EXPECT_EQ(NormalizeUnicode("ﬁ", UnicodeForm::kNfc), "ﬁ");
  EXPECT_EQ(NormalizeUnicode("\u2126", UnicodeForm::kNfc), "\u03A9");
}

TEST(UnicodeNormalization, OrdersMarksAndStopsAtThoseThatBlock) {
  // A dot below (220) goes before an acute (230); a second acute is blocked by the first.
  EXPECT_EQ(NormalizeUnicode("q\u0301\u0323", UnicodeForm::kNfd), "q\u0323\u0301");
  EXPECT_EQ(NormalizeUnicode("e\u0327\u0301", UnicodeForm::kNfc), "\u0229\u0301");
  EXPECT_EQ(NormalizeUnicode("q\u0301\u0301", UnicodeForm::kNfc), "q\u0301\u0301");
  EXPECT_EQ(NormalizeUnicode("\u0301a", UnicodeForm::kNfc), "\u0301a");
}

TEST(UnicodeNormalization, LeavesCharactersThatTokenizersDoesNotKnow) {
  EXPECT_EQ(NormalizeUnicode("\u32FF", UnicodeForm::kNfkc), "\u32FF");
  EXPECT_EQ(NormalizeUnicode("\U00011935\U00011930", UnicodeForm::kNfc), "\U00011935\U00011930");
  EXPECT_EQ(NormalizeUnicode("a\u0301\u1DF6", UnicodeForm::kNfd), "a\u0301\u1DF6");
}

TEST(UnicodeNormalization, TakesAMillionMarksInAnyOrder) {
  std::string marks = "e";
  for (int i = 0; i < 250'000; ++i) marks += "\u0315\u0301\u0323\u0327";  // 232 230 220 202
  const std::string sorted = NormalizeUnicode(marks, UnicodeForm::kNfd);
  ASSERT_EQ(sorted.size(), marks.size());
  EXPECT_EQ(sorted.substr(0, 5), "e\u0327\u0327");
  EXPECT_EQ(sorted.substr(sorted.size() - 4), "\u0315\u0315");
}

TEST(UnicodeNormalization, LowersWithoutContextAndNewLettersToo) {
  EXPECT_EQ(LowerCase("ΑΣ İA\u1C89\U00016EA0"), "ασ i\u0307a\u1C8A\U00016EBB");
}

}  // namespace
}  // namespace conclave::router
