#include "router/white_space.h"

#include "router/unicode_class.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

bool IsSpace(std::string_view character) {
  const Utf8Char c = FirstChar(character);
  return c.kind == Utf8Char::Kind::kValid && ClassOf(c.code_point) == UnicodeClass::kSpace;
}

}  // namespace

size_t LeadingSpace(std::string_view text) {
  size_t length = 0;
  while (length < text.size() && IsSpace(text.substr(length))) {
    length += FirstChar(text.substr(length)).bytes;
  }
  return length;
}

size_t TrailingSpace(std::string_view text) {
  size_t start = text.size();
  while (start > 0) {
    size_t character = start - 1;
    while (character > 0 && (text[character] & 0xC0) == 0x80) --character;
    if (!IsSpace(text.substr(character, start - character))) break;
    start = character;
  }
  return text.size() - start;
}

}  // namespace conclave::router
