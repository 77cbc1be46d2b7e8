#include "router/pattern_dialect.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdio>
#include <memory>

#include "router/unicode_class.h"
#include "router/utf8.h"

namespace conclave::router {
namespace {

constexpr std::string_view kSpaces = R"(\t-\r\x{85}\p{Z})";  // White_Space

std::string Escaped(char32_t first, char32_t last) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "\\x{%x}-\\x{%x}", static_cast<unsigned>(first),
                static_cast<unsigned>(last));
  return buffer;
}

// As members of a class: the ranges of unicode_class that PCRE2's property does not have.
std::string MissingFrom(const char* property, UnicodeClass unicode_class) {
  int code = 0;
  PCRE2_SIZE offset = 0;
  const std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> regex(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(property), PCRE2_ZERO_TERMINATED,
                    PCRE2_UTF | PCRE2_UCP, &code, &offset, nullptr),
      pcre2_code_free);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  std::string missing;
  char32_t first = 0, last = 0;  // a run of missing characters; last == 0: none
  const auto flush = [&] {
    if (last != 0) missing += Escaped(first, last);
    last = 0;
  };
  for (const UnicodeRange& range : UnicodeRanges()) {
    if (range.unicode_class != unicode_class) continue;
    for (char32_t c = range.first; c <= range.last; ++c) {
      const std::string text = ToUtf8(c);
      const bool known = pcre2_match(regex.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                     text.size(), 0, PCRE2_NO_UTF_CHECK, data.get(), nullptr) > 0;
      if (known) {
        flush();
      } else {
        if (last == 0) first = c;
        last = c;
      }
    }
    flush();
  }
  return missing;
}

// What stands, as members of a class, for the escape that text begins with; empty: the escape
// itself.
struct Members {
  std::string_view escape;
  std::string members;
};

Members MembersAt(std::string_view text) {
  static const std::string letters = R"(\p{L})" + MissingFrom(R"(\p{L})", UnicodeClass::kLetter);
  static const std::string numbers = R"(\p{N})" + MissingFrom(R"(\p{N})", UnicodeClass::kNumber);
  if (text.starts_with(R"(\p{L})")) return {text.substr(0, 5), letters};
  if (text.starts_with(R"(\p{N})")) return {text.substr(0, 5), numbers};
  if (text.starts_with(R"(\w)")) return {text.substr(0, 2), letters + numbers + R"(\p{M}\p{Pc})"};
  if (text.starts_with(R"(\s)")) return {text.substr(0, 2), std::string(kSpaces)};
  return {text.substr(0, 2), {}};
}

}  // namespace

std::optional<std::string> ToPcre2(std::string_view pattern, std::string* error) {
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size();) {
    const std::string_view rest = pattern.substr(i);
    if (rest[0] == '\\') {
      const Members found = MembersAt(rest);
      if (!in_class && (rest.starts_with(R"(\S)") || rest.starts_with(R"(\W)"))) {
        result += "[^" + MembersAt(rest[1] == 'S' ? R"(\s)" : R"(\w)").members + "]";
      } else if (found.members.empty()) {
        result += found.escape;
      } else {
        result += in_class ? found.members : "[" + found.members + "]";
      }
      i += found.escape.size();
      continue;
    }
    if (in_class && (rest.starts_with("&&") || (rest[0] == '[' && !rest.starts_with("[:")))) {
      *error = "pre_tokenizer: the pattern \"" + std::string(pattern) +
               "\" nests or intersects character classes, which is not supported";
      return std::nullopt;
    }
    size_t length = 1;
    if (in_class && rest.starts_with("[:")) {  // [:alpha:]
      const size_t end = rest.find(":]");
      length = end == std::string_view::npos ? 2 : end + 2;
    } else if (rest[0] == '[') {
      in_class = true;
      if (rest.substr(length).starts_with('^')) ++length;
      if (rest.substr(length).starts_with(']')) ++length;  // first in a class, it is itself
    } else if (rest[0] == ']') {
      in_class = false;
    }
    result += rest.substr(0, length);
    i += length;
  }
  return result;
}

}  // namespace conclave::router
