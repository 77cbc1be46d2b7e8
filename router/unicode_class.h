#pragma once
// The three classes of characters that the GPT-2 pattern tells apart, as Hugging Face's tokenizers
// has them (\p{L}, \p{N}, \s; see tests/reference/make_unicode_class.py). Pure; any thread.

#include <cstdint>
#include <span>

namespace conclave::router {

enum class UnicodeClass : uint8_t { kOther, kLetter, kNumber, kSpace };

UnicodeClass ClassOf(char32_t code_point);

struct UnicodeRange {
  char32_t first;
  char32_t last;  // inclusive
  UnicodeClass unicode_class;
};

// Sorted, disjoint; what is in none is kOther.
std::span<const UnicodeRange> UnicodeRanges();

}  // namespace conclave::router
