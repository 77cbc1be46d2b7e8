#include "loadtest/file.h"

#include <algorithm>
#include <fstream>
#include <string_view>

#include "absl/strings/str_format.h"

namespace conclave::loadtest {

absl::StatusOr<std::string> ReadWhole(const std::string& path, size_t limit_bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrFormat("cannot open \"%s\"", path));
  std::string text;
  char chunk[1 << 16];
  while (file.read(chunk, sizeof(chunk)) || file.gcount() > 0) {
    text.append(chunk, static_cast<size_t>(file.gcount()));
    if (text.size() > limit_bytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: larger than %d bytes", path, limit_bytes));
    }
  }
  if (file.bad()) return absl::UnavailableError(absl::StrFormat("%s: cannot be read", path));
  return text;
}

absl::Status ForEachLine(const std::string& path, const std::string& text, const TakeLine& take) {
  const auto take_checked = [&](size_t number, std::string_view line) {
    if (line.size() <= kMaxLineBytes) return take(number, std::string(line));
    return absl::InvalidArgumentError(absl::StrFormat("longer than %d bytes", kMaxLineBytes));
  };
  std::string_view left = text;
  for (size_t number = 1; !left.empty(); ++number) {
    std::string_view line = left.substr(0, left.find('\n'));
    left.remove_prefix(std::min(left.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    if (const absl::Status status = take_checked(number, line); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s:%d: %s", path, number, status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave::loadtest
