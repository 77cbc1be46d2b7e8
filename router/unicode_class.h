#pragma once
// What Unicode says of characters, as Hugging Face's tokenizers has it: its regular expressions
// know Unicode 16, PCRE2 of the distribution 14. Pure; any thread.

#include <array>
#include <cstdint>
#include <span>

namespace conclave::router {

// The classes of characters that the GPT-2 pattern tells apart: \p{L}, \p{N}, \s.
enum class UnicodeClass : uint8_t { kOther, kLetter, kNumber, kSpace };

UnicodeClass ClassOf(char32_t code_point);

// char::is_numeric of the Rust that tokenizers is built with, which knows a few numbers more.
bool IsDigit(char32_t code_point);

// \w as added tokens with single_word have it.
bool IsWord(char32_t code_point);

struct RecentRange {
  char32_t first;
  char32_t last;     // inclusive
  char category[3];  // "Lu"
};

// The characters whose general category is newer than Unicode 14. Sorted, disjoint.
std::span<const RecentRange> RecentCategories();

}  // namespace conclave::router
