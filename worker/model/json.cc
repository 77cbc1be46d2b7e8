#include "worker/model/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace conclave::worker {
namespace {

using Json = nlohmann::json;

// Looks at the structure before a document is made of it, so that what is refused takes no memory.
class StructureCheck : public nlohmann::json_sax<Json> {
 public:
  explicit StructureCheck(int32_t depth_limit) : depth_limit_(depth_limit) {}

  const std::string& error() const { return error_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return Enter(); }
  bool start_array(std::size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    error_ = absl::StrFormat("key \"%s\" appears twice", Printable(name));
    return false;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    // The library's text ends with what it expected; its beginning repeats an error number.
    const std::string_view text = e.what();
    const size_t reason = text.find(": ");
    error_ = absl::StrFormat("not JSON at byte %d: %s", position,
                             Printable(reason == text.npos ? text : text.substr(reason + 2)));
    return false;
  }

 private:
  bool Enter() {
    keys_.emplace_back();
    if (keys_.size() <= static_cast<size_t>(depth_limit_)) return true;
    error_ = absl::StrFormat("nested deeper than %d levels", depth_limit_);
    return false;
  }
  bool Leave() {
    keys_.pop_back();
    return true;
  }

  const int32_t depth_limit_;
  std::vector<std::unordered_set<std::string>>
      keys_;  // seen so far, of every open object (or array: none)
  std::string error_;
};

}  // namespace

std::string Printable(std::string_view name) {
  constexpr size_t kLongest = 160;
  const bool cut = name.size() > kLongest;
  std::string text = absl::CHexEscape(std::string(name.substr(0, kLongest)));
  // Quotes are no trouble in a message, and people look for them.
  text = absl::StrReplaceAll(text, {{R"(\\)", R"(\\)"}, {R"(\")", "\""}, {R"(\')", "'"}});
  return cut ? text + "..." : text;
}

absl::StatusOr<Json> ParseJson(std::string_view bytes, const std::string& name,
                               const JsonLimits& limits) {
  if (bytes.size() > limits.bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: has %d bytes, the limit is %d", name, bytes.size(), limits.bytes));
  }
  // The parser would take a zero byte for the end and not look at what follows.
  if (const size_t zero = bytes.find('\0'); zero != bytes.npos) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: not JSON at byte %d: a zero byte", name, zero));
  }
  StructureCheck check(limits.depth);
  if (!Json::sax_parse(bytes.begin(), bytes.end(), &check)) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", name, check.error()));
  }
  Json document = Json::parse(bytes.begin(), bytes.end(), nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded())
    return absl::InvalidArgumentError(absl::StrFormat("%s: not JSON", name));
  return document;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string text = absl::StrFormat("%s: %s", path, std::strerror(errno));
    return errno == ENOENT || errno == ENOTDIR ? absl::NotFoundError(text)
                                               : absl::InvalidArgumentError(text);
  }
  struct stat info;
  absl::Status status;
  std::string bytes;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(absl::StrFormat("%s: is not a regular file", path));
  } else if (static_cast<uint64_t>(info.st_size) > max_bytes) {
    status = absl::InvalidArgumentError(
        absl::StrFormat("%s: has %d bytes, the limit is %d", path, info.st_size, max_bytes));
  } else {
    bytes.resize(static_cast<size_t>(info.st_size));
    size_t got = 0;
    while (got < bytes.size()) {
      const ssize_t n = read(fd, &bytes[got], bytes.size() - got);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      got += static_cast<size_t>(n);
    }
    if (got != bytes.size()) {
      status = absl::InvalidArgumentError(
          absl::StrFormat("%s: %d of %d bytes could be read", path, got, bytes.size()));
    }
  }
  close(fd);
  if (!status.ok()) return status;
  return bytes;
}

absl::StatusOr<Json> ReadJsonFile(const std::string& path, const JsonLimits& limits) {
  absl::StatusOr<std::string> bytes = ReadSmallFile(path, limits.bytes);
  if (!bytes.ok()) return bytes.status();
  return ParseJson(*bytes, path, limits);
}

}  // namespace conclave::worker
