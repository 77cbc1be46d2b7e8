#pragma once
// The patterns in a tokenizer.json are written for Oniguruma and a newer Unicode than PCRE2 of the
// distribution knows. This rewrites one so that PCRE2 matches the same text: \p{L}, \p{N} and \w
// take in the letters and numbers that PCRE2 does not know yet, \w also marks and connectors, and
// \s loses U+180E. Other properties (\p{Lu}, \d), and \S and \W inside a class, keep PCRE2's
// meaning. Any thread.

#include <optional>
#include <string>
#include <string_view>

namespace conclave::router {

// nullopt and *error: the pattern nests or intersects character classes, which PCRE2 cannot.
std::optional<std::string> ToPcre2(std::string_view pattern, std::string* error);

}  // namespace conclave::router
