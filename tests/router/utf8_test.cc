#include "router/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "router/unicode_class.h"

namespace conclave::router {
namespace {

using namespace std::string_literals;

TEST(Utf8, ReadsEveryCharacterItWrites) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    const std::string text = ToUtf8(c);
    const Utf8Char read = FirstChar(text + "x");
    ASSERT_EQ(read.kind, Utf8Char::Kind::kValid) << std::hex << static_cast<uint32_t>(c);
    ASSERT_EQ(read.code_point, c);
    ASSERT_EQ(read.bytes, text.size());
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const Utf8Char part = FirstChar(std::string_view(text).substr(0, cut));
      ASSERT_EQ(part.kind, Utf8Char::Kind::kIncomplete);
      ASSERT_EQ(part.bytes, cut);
    }
  }
}

// What Python's bytes.decode("utf-8", "replace") gives, with '?' for U+FFFD.
TEST(Utf8, ReplacesEachMaximalSubpartAsPythonDoes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\xF0\x9F\x98", "?"},
      {"\xE4\xBD"
       "a",
       "?a"},
      {"\xC0\xAF", "??"},
      {"\xED\xA0\x80", "???"},
      {"\xF4\x90\x80\x80", "????"},
      {"\xF0\x80\x80"
       "A",
       "???A"},
      {"\xE0\x80\x80", "???"},
      {"\xF1\x80\x80\xFF", "??"},
      {"\x80\xBF", "??"},
      {"\xF5\x80", "??"},
      {"\xE2\x82\xAC\xE2\x82", "\xE2\x82\xAC?"},
      {"a\xFF\xFE"
       "b",
       "a??b"},
      {"\0x"s, "\0x"s},
      {"", ""},
  };
  for (const auto& [bytes, expected] : cases) {
    std::string text = ReplaceInvalidUtf8(bytes);
    for (size_t at; (at = text.find(kReplacementCharacter)) != std::string::npos;) {
      text.replace(at, kReplacementCharacter.size(), "?");
    }
    EXPECT_EQ(text, expected);
    EXPECT_EQ(IsUtf8(bytes), bytes == ReplaceInvalidUtf8(bytes));
  }
}

TEST(UnicodeClass, KnowsLettersNumbersAndSpaces) {
  for (char32_t c :
       {U'a', U'Z', U'é', U'ß', U'я', U'你', U'か', U'ª', U'\U0001D4D7', U'\U00016D40'}) {
    EXPECT_EQ(ClassOf(c), UnicodeClass::kLetter) << std::hex << static_cast<uint32_t>(c);
  }
  for (char32_t c : {U'0', U'9', U'²', U'½', U'Ⅷ', U'٣', U'\U0001D7D8'}) {
    EXPECT_EQ(ClassOf(c), UnicodeClass::kNumber) << std::hex << static_cast<uint32_t>(c);
  }
  for (char32_t c : {U' ', U'\t', U'\r', U'\x85', U'\xA0', U'\u2028', U'\u3000'}) {
    EXPECT_EQ(ClassOf(c), UnicodeClass::kSpace) << std::hex << static_cast<uint32_t>(c);
  }
  for (char32_t c : {U'!', U'_', U'\0', U'\x7F', U'\u0301', U'\u180E', U'\u200B', U'\U0001F600',
                     U'\U0010FFFF'}) {
    EXPECT_EQ(ClassOf(c), UnicodeClass::kOther) << std::hex << static_cast<uint32_t>(c);
  }
}

TEST(RecentCategories, AreSortedAndDisjoint) {
  char32_t next = 0;
  for (const RecentRange& range : RecentCategories()) {
    ASSERT_LE(next, range.first);
    ASSERT_LE(range.first, range.last);
    next = range.last + 1;
  }
}

}  // namespace
}  // namespace conclave::router
