#pragma once
// Pieces of texts from outside, and how a message repeats them.

#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace conclave::loadtest {

// Empty pieces included; an empty text is one.
std::vector<std::string_view> Split(std::string_view text, char separator);

// The whole text as a number: nothing if it is none, if T cannot hold it or if it is not finite.
template <typename T>
std::optional<T> ParseNumber(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (stop != end || error != std::errc() || !std::isfinite(static_cast<double>(value))) {
    return std::nullopt;
  }
  return value;
}

// What a message to the server may hold.
bool IsUtf8(std::string_view text);

// Its beginning, printable.
std::string Excerpt(std::string_view text);

}  // namespace conclave::loadtest
