#pragma once
// Code points as Python's str sees them. Pure; any thread.

#include <cstddef>
#include <string>
#include <string_view>

namespace conclave::router::chat {

bool IsSpace(char32_t c);
// Whether repr() shows it as it is.
bool IsPrintable(char32_t c);
bool IsUpper(char32_t c);
bool IsLower(char32_t c);
bool IsAlpha(char32_t c);
bool IsDigit(char32_t c);
// Has an upper or a lower case; is looked past where case depends on the neighbours.
bool IsCased(char32_t c);
bool IsCaseIgnorable(char32_t c);

// UTF-8; one character can become several ("ß": "SS").
std::string ToUpper(char32_t c);
std::string ToLower(char32_t c);
std::string ToTitle(char32_t c);

// The character of well-formed UTF-8 that begins at `at`.
struct Character {
  char32_t code_point;
  size_t bytes;
};
Character CharacterAt(std::string_view bytes, size_t at);
// The one that ends before `end`, which is not 0.
Character CharacterBefore(std::string_view bytes, size_t end);

}  // namespace conclave::router::chat
