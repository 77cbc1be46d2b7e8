#pragma once
// White space at the ends of a text, which need not be UTF-8: other bytes are no space. Pure; any
// thread.

#include <cstddef>
#include <string_view>

namespace conclave::router {

// Bytes of the white space that text begins with.
size_t LeadingSpace(std::string_view text);
// ... ends with.
size_t TrailingSpace(std::string_view text);

}  // namespace conclave::router
