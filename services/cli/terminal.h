#pragma once
// Text from outside, made safe to show on a terminal: control characters (escape sequences begin
// with one) are spelled out, what is not UTF-8 becomes U+FFFD. Line breaks and tabs stay. One
// thread.

#include <string>
#include <string_view>

namespace conclave::services::cli {

// For text that comes in pieces: a character cut by the end of a piece waits for its rest.
class TerminalText {
 public:
  std::string Add(std::string_view piece);
  // What was waiting in vain.
  std::string End();

 private:
  std::string pending_;  // the beginning of a character, at most 3 bytes
};

std::string Printable(std::string_view text);

}  // namespace conclave::services::cli
