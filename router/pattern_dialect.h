#pragma once
// The patterns in a tokenizer.json are written for Oniguruma and a newer Unicode than PCRE2 of the
// distribution knows. This rewrites one so that PCRE2, told that ^ and $ are those of a line,
// matches the same text:
// - \p{..} of a general category, \w, \b, \d and \s mean what they mean there, newer characters
//   included;
// - \h, \v, \uHHHH, {,n}, and a + or ? behind an interval mean what Oniguruma takes them for;
// - a pattern that begins with a run (\s+$) is not tried again from inside a run on which it
//   failed: it must fail there too, and trying made hostile text quadratic.
// What stays PCRE2's: scripts and other properties (Unicode 14), and \W or \P{..} inside a class.
// Any thread.

#include <optional>
#include <string>
#include <string_view>

namespace conclave::router {

// nullopt and *error, which goes on after "the pattern P ": what PCRE2 cannot do.
std::optional<std::string> ToPcre2(std::string_view pattern, std::string* error);

}  // namespace conclave::router
