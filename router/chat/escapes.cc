#include "router/chat/escapes.h"

#include <algorithm>
#include <charconv>
#include <cstdint>

#include "router/utf8.h"

namespace conclave::router::chat {
namespace {

bool IsOctal(char c) { return c >= '0' && c <= '7'; }
bool IsHexadecimal(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

char32_t CodePoint(std::string_view digits, int base) {
  uint32_t code = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), code, base);
  return code;
}

// Behind the backslash; takes one to three digits.
void TakeOctal(std::string_view* rest, std::string* text) {
  size_t size = 1;
  while (size < 3 && size < rest->size() && IsOctal((*rest)[size])) ++size;
  *text += ToUtf8(CodePoint(rest->substr(0, size), 8));
  rest->remove_prefix(size);
}

// x, u or U and its digits.
bool TakeHexadecimal(std::string_view* rest, std::string* text, std::string* error) {
  const char kind = rest->front();
  const size_t size = kind == 'x' ? 2 : kind == 'u' ? 4 : 8;
  const std::string_view digits = rest->substr(1, size);
  if (digits.size() < size || !std::all_of(digits.begin(), digits.end(), IsHexadecimal)) {
    *error = std::string("a string has a \\") + kind + " without its digits";
    return false;
  }
  const char32_t code = CodePoint(digits, 16);
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
    *error = "a string has an escape that is no character";
    return false;
  }
  *text += ToUtf8(code);
  rest->remove_prefix(1 + size);
  return true;
}

}  // namespace

bool Unescape(std::string_view raw, std::string* text, std::string* error) {
  constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
  for (std::string_view rest = raw; !rest.empty();) {
    const size_t plain = std::min(rest.find('\\'), rest.size());
    *text += rest.substr(0, plain);
    rest.remove_prefix(plain);
    if (rest.size() < 2) {
      *text += rest;
      break;
    }
    rest.remove_prefix(1);
    const char c = rest.front();
    const size_t simple = kNames.find(c);
    if (IsOctal(c)) {
      TakeOctal(&rest, text);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      if (!TakeHexadecimal(&rest, text, error)) return false;
    } else if (c == 'N') {
      *error = "a string has a character by name (\\N), which is not supported";
      return false;
    } else {
      if (simple != std::string_view::npos) {
        *text += kValues[simple];
      } else if (c != '\n') {  // a line break behind a backslash is none
        *text += std::string{'\\', c};
      }
      rest.remove_prefix(1);
    }
  }
  return true;
}

}  // namespace conclave::router::chat
