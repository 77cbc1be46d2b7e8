#include "router/chat/characters.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "router/utf8.h"

namespace conclave::router::chat {
namespace {

struct SpecialCase {
  char32_t code_point;
  std::string_view upper;
  std::string_view title;
  std::string_view lower;
};

constexpr SpecialCase kSpecialCases[] = {
#include "router/chat/unicode_case.inc"
};

// Null: each of its cases is one character.
const SpecialCase* FindSpecial(char32_t c) {
  const auto* const found = std::lower_bound(
      std::begin(kSpecialCases), std::end(kSpecialCases), c,
      [](const SpecialCase& entry, char32_t wanted) { return entry.code_point < wanted; });
  return found != std::end(kSpecialCases) && found->code_point == c ? found : nullptr;
}

utf8proc_category_t CategoryOf(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

std::string Encoded(utf8proc_int32_t c) { return ToUtf8(static_cast<char32_t>(c)); }

bool IsWithin(utf8proc_category_t category, utf8proc_category_t first, utf8proc_category_t last) {
  return category >= first && category <= last;
}

}  // namespace

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool IsPrintable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  const utf8proc_category_t category = CategoryOf(c);
  return category != UTF8PROC_CATEGORY_CN &&
         !IsWithin(category, UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_CO);
}

bool IsUpper(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_LU; }
bool IsLower(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_LL; }
bool IsAlpha(char32_t c) {
  return IsWithin(CategoryOf(c), UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LO);
}
bool IsDigit(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_ND; }

bool IsCased(char32_t c) {
  return IsWithin(CategoryOf(c), UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LT);
}

bool IsCaseIgnorable(char32_t c) {
  switch (CategoryOf(c)) {
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019;
  }
}

std::string ToUpper(char32_t c) {
  const SpecialCase* const special = c < 0x80 ? nullptr : FindSpecial(c);
  return special != nullptr ? std::string(special->upper)
                            : Encoded(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
std::string ToLower(char32_t c) {
  const SpecialCase* const special = c < 0x80 ? nullptr : FindSpecial(c);
  return special != nullptr ? std::string(special->lower)
                            : Encoded(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}
std::string ToTitle(char32_t c) {
  const SpecialCase* const special = c < 0x80 ? nullptr : FindSpecial(c);
  return special != nullptr ? std::string(special->title)
                            : Encoded(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}

Character CharacterAt(std::string_view bytes, size_t at) {
  const Utf8Char c = FirstChar(bytes.substr(at));
  return {c.code_point, c.bytes};
}

Character CharacterBefore(std::string_view bytes, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(bytes[begin]) & 0xC0) == 0x80) --begin;
  return CharacterAt(bytes, begin);
}

}  // namespace conclave::router::chat
