#include "loadtest/text.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"

namespace conclave::loadtest {

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  for (size_t end = text.find(separator); end != text.npos; end = text.find(separator)) {
    pieces.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  pieces.push_back(text);
  return pieces;
}

bool IsUtf8(std::string_view text) {
  try {
    [[maybe_unused]] const std::string quoted = nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    return false;
  }
  return true;
}

std::string Excerpt(std::string_view text) {
  constexpr size_t kBytes = 40;
  return absl::Utf8SafeCHexEscape(std::string(text.substr(0, kBytes)));
}

}  // namespace conclave::loadtest
