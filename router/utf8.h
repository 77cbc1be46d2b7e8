#pragma once
// UTF-8 read one character at a time, by the Unicode standard's table 3-7: no overlong forms, no
// surrogates, nothing above U+10FFFF. What is not UTF-8 is cut into maximal subparts, each of which
// becomes one U+FFFD, as Python's errors="replace" does. Pure; any thread.

#include <cstdint>
#include <string>
#include <string_view>

namespace conclave::router {

struct Utf8Char {
  enum class Kind : uint8_t {
    kValid,
    kInvalid,     // these bytes begin no character
    kIncomplete,  // the text ends inside what may become a character
  };
  Kind kind;
  char32_t code_point;  // only if kValid
  uint32_t bytes;       // 1..4: of the character, or of the maximal subpart
};

// The first character of text, which must not be empty.
Utf8Char FirstChar(std::string_view text);

std::string ToUtf8(char32_t code_point);
void AppendUtf8(char32_t code_point, std::string* text);

bool IsUtf8(std::string_view bytes);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// bytes with every maximal invalid subpart, an incomplete end included, replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view bytes);

}  // namespace conclave::router
