#include "services/identity.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_format.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

bool IsIdByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

// 0 if there is no such file.
absl::StatusOr<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  if (!file) return 0;
  char text[32] = {};
  file.read(text, sizeof(text) - 1);
  const char* const end = text + file.gcount();
  uint64_t number = 0;
  const auto [stop, error] = std::from_chars(text, end, number);
  if (error != std::errc() || (stop != end && *stop != '\n')) {
    return absl::DataLossError(absl::StrFormat("%s does not hold a number", path));
  }
  return number;
}

// Whole or not at all, and on disk when it returns.
absl::Status WriteDurably(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  bool ok = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
            fsync(fd) == 0;
  if (fd >= 0) ok = close(fd) == 0 && ok;
  ok = ok && rename(temporary.c_str(), path.c_str()) == 0;
  if (!ok)
    return absl::UnavailableError(
        absl::StrFormat("cannot write %s: %s", path, std::strerror(errno)));
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateId(const std::string& id) {
  if (!id.empty() && id.size() <= kMaxIdBytes && std::all_of(id.begin(), id.end(), IsIdByte))
    return absl::OkStatus();
  const bool cut = id.size() > kMaxIdBytes;
  return absl::InvalidArgumentError(absl::StrFormat(
      "worker id \"%s%s\" has %d bytes: want 1 to %d of A-Z a-z 0-9 . _ -",
      worker::Printable(id.substr(0, kMaxIdBytes)), cut ? "..." : "", id.size(), kMaxIdBytes));
}

std::string DefaultId() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  std::string id(name);
  std::replace_if(
      id.begin(), id.end(), [](char c) { return !IsIdByte(c); }, '-');
  return id.empty() ? "worker" : id.substr(0, kMaxIdBytes);
}

absl::StatusOr<uint64_t> NextIncarnation(const std::string& directory) {
  // So fine that two workers of one id, of two clusters on this machine, do not come by the same:
  // their sockets are named by it.
  const auto now = std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::system_clock::now().time_since_epoch());
  const auto by_clock = static_cast<uint64_t>(std::max<int64_t>(now.count(), 1));
  if (directory.empty()) return by_clock;
  std::error_code error;
  std::filesystem::create_directories(directory, error);  // a failure shows when writing
  const std::string path = directory + "/incarnation";
  CONCLAVE_ASSIGN_OR_RETURN(const uint64_t last, ReadNumber(path));
  const uint64_t next = std::max(by_clock, last + 1);
  CONCLAVE_RETURN_IF_ERROR(WriteDurably(path, absl::StrFormat("%d\n", next)));
  return next;
}

}  // namespace conclave::services
