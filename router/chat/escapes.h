#pragma once
// The escapes of Python's string literals. Pure; any thread.

#include <string>
#include <string_view>

namespace conclave::router::chat {

// Appends what `raw`, a literal without its quotes, means; a backslash that begins no escape stays.
// False and *error: an escape is cut off or names no character.
bool Unescape(std::string_view raw, std::string* text, std::string* error);

}  // namespace conclave::router::chat
