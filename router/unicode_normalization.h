#pragma once
// Unicode normalisation and lower case as Hugging Face's tokenizers does them: its normalisation
// forms know Unicode 9, its lower case a Unicode newer than utf8proc's. Time n log n on any text,
// also on a million combining marks. Pure; any thread. Unicode Standard Annex 15.

#include <string>
#include <string_view>

namespace conclave::router {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// text is UTF-8. A form is at most 11 times as long as its text.
std::string NormalizeUnicode(std::string_view text, UnicodeForm form);

// Character by character: a final sigma is a sigma.
std::string LowerCase(std::string_view text);

}  // namespace conclave::router
