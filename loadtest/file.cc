#include "loadtest/file.h"

#include <fstream>
#include <sstream>

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
  std::istringstream lines(text);
  std::string line;
  for (size_t number = 1; std::getline(lines, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    if (const absl::Status status = take(number, line); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s:%d: %s", path, number, status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave::loadtest
