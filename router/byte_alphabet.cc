#include "router/byte_alphabet.h"

#include <array>
#include <charconv>
#include <cstdint>

#include "router/utf8.h"

namespace conclave::router {
namespace {

constexpr int32_t kNoByte = -1;
constexpr char32_t kAlphabetEnd = 0x144;

// By code point: the byte.
const std::array<int32_t, kAlphabetEnd>& Alphabet() {
  static const std::array<int32_t, kAlphabetEnd> alphabet = [] {
    std::array<int32_t, kAlphabetEnd> bytes;
    bytes.fill(kNoByte);
    size_t next = 0x100;
    for (int32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
                             (byte >= 0xAE && byte <= 0xFF);
      bytes[printable ? static_cast<size_t>(byte) : next++] = byte;
    }
    return bytes;
  }();
  return alphabet;
}

}  // namespace

std::optional<std::string> FromByteAlphabet(std::string_view token) {
  std::string bytes;
  for (std::string_view rest = token; !rest.empty();) {
    const Utf8Char c = FirstChar(rest);
    if (c.code_point >= kAlphabetEnd || Alphabet()[c.code_point] == kNoByte) return std::nullopt;
    bytes += static_cast<char>(Alphabet()[c.code_point]);
    rest.remove_prefix(c.bytes);
  }
  return bytes;
}

std::optional<char> FromByteFallback(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  uint8_t byte = 0;
  const auto [end, failure] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  if (failure != std::errc() || end != token.data() + 5) return std::nullopt;
  return static_cast<char>(byte);
}

}  // namespace conclave::router
