#pragma once
// GPT-2's alphabet, in which a byte-level vocabulary writes bytes as printable characters: a
// printable byte is itself, the other 68 are U+0100 and on. Pure; any thread.

#include <optional>
#include <string>
#include <string_view>

namespace conclave::router {

// The bytes that token stands for; nullopt: it has a character that is not of the alphabet.
std::optional<std::string> FromByteAlphabet(std::string_view token);

// The byte of a byte-fallback token, "<0xE4>" for 228; nullopt: token is none.
std::optional<char> FromByteFallback(std::string_view token);

}  // namespace conclave::router
