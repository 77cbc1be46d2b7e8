#include "services/cli/npy_reader.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "scheduler/check.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);

// Reads Python's dictionary of a header, as far as a header can have one.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const NpyLimits& limits) : text_(text), limits_(limits) {}

  // What is wrong; empty if nothing.
  std::string Parse(NpyHeader* header) {
    if (!Take('{')) return "no dictionary";
    while (!Take('}')) {
      std::string key;
      if (!TakeString(&key) || !Take(':')) return "no key";
      if (!seen_.insert(key).second) return "a key twice: " + key;
      if (const std::string error = TakeValue(key, header); !error.empty()) return error;
      if (Take(',')) continue;
      if (!Take('}')) return "no end";
      break;
    }
    SkipSpace();
    if (!text_.empty()) return "something behind the dictionary";
    return seen_.size() == 3 ? "" : "a key is missing";
  }

 private:
  std::string TakeValue(const std::string& key, NpyHeader* header) {
    if (key == "descr") return TakeString(&header->type) ? "" : "descr is no plain type";
    if (key == "fortran_order") return TakeWord("False") ? "" : "fortran_order is not False";
    if (key == "shape") return TakeShape(&header->shape);
    return "unknown key " + worker::Printable(key);
  }
  // (), (1,) or (1, 2, ..), with or without a comma at the end.
  std::string TakeShape(std::vector<uint64_t>* shape) {
    if (!Take('(')) return "shape is no tuple";
    while (!Take(')')) {
      SkipSpace();
      uint64_t length = 0;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), length);
      if (error != std::errc()) return "shape has what is no length";
      if (shape->size() == limits_.rank) return "shape has too many dimensions";
      text_.remove_prefix(static_cast<size_t>(end - text_.data()));
      shape->push_back(length);
      if (Take(',')) continue;
      return Take(')') ? "" : "shape has no end";
    }
    return "";
  }
  bool TakeString(std::string* value) {
    SkipSpace();
    if (text_.empty() || (text_[0] != '\'' && text_[0] != '"')) return false;
    const size_t end = text_.find(text_[0], 1);
    if (end == text_.npos) return false;
    *value = text_.substr(1, end - 1);
    text_.remove_prefix(end + 1);
    return true;
  }
  bool TakeWord(std::string_view word) {
    SkipSpace();
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  bool Take(char mark) { return TakeWord({&mark, 1}); }
  void SkipSpace() { text_.remove_prefix(std::min(text_.find_first_not_of(" \n"), text_.size())); }

  std::string_view text_;
  const NpyLimits& limits_;
  std::set<std::string> seen_;
};

// Of an element, "|u1" say: the type's last digit.
uint64_t ElementBytes(const std::string& type) { return static_cast<uint64_t>(type.back() - '0'); }

}  // namespace

absl::StatusOr<NpyHeader> ParseNpyHeader(std::string_view text, const std::string& name,
                                         const NpyLimits& limits) {
  NpyHeader header;
  const std::string error = HeaderParser(text, limits).Parse(&header);
  if (error.empty()) return header;
  return absl::InvalidArgumentError(absl::StrFormat("%s: its header has %s", name, error));
}

absl::StatusOr<NpyReader> NpyReader::Open(const worker::Directory& directory,
                                          const std::string& name,
                                          const std::vector<std::string>& types,
                                          const NpyLimits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(std::shared_ptr<const worker::DirectoryFile> file,
                            directory.OpenFile(name));
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", file->path(), what));
  };
  char first[12] = {};
  const size_t got = std::min<uint64_t>(sizeof(first), file->size());
  CONCLAVE_RETURN_IF_ERROR(file->ReadAt(0, got, first));
  if (got < sizeof(first) || std::string_view(first, kMagic.size()) != kMagic)
    return refuse("is no .npy file");
  const char version = first[6];
  if (version < 1 || version > 3 || first[7] != 0)
    return refuse(absl::StrFormat("is of format %d.%d, known are 1.0 to 3.0", version, first[7]));
  const uint64_t begin = version == 1 ? 10 : 12;
  uint64_t length = 0;
  for (uint64_t i = begin; i-- > 8;) length = length << 8 | static_cast<unsigned char>(first[i]);
  if (length > limits.header_bytes) {
    return refuse(
        absl::StrFormat("has a header of %d bytes, the limit is %d", length, limits.header_bytes));
  }
  if (length > file->size() - begin) return refuse("ends within its header");
  std::string text(length, '\0');
  CONCLAVE_RETURN_IF_ERROR(file->ReadAt(begin, text.size(), text.data()));
  CONCLAVE_ASSIGN_OR_RETURN(NpyHeader header, ParseNpyHeader(text, file->path(), limits));
  if (std::find(types.begin(), types.end(), header.type) == types.end()) {
    return refuse(absl::StrFormat("has elements of type %s, expected %s",
                                  worker::Printable(header.type), absl::StrJoin(types, " or ")));
  }
  NpyReader reader(std::move(file), std::move(header), begin + length);
  CONCLAVE_RETURN_IF_ERROR(reader.CheckSize());
  return reader;
}

absl::Status NpyReader::CheckSize() {
  const std::string shape = "(" + absl::StrJoin(header_.shape, ", ") + ")";
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: shape %s %s", path(), shape, what));
  };
  if (header_.shape.empty()) return refuse("has no rows");
  bool too_large = false;
  row_bytes_ = ElementBytes(header_.type);
  for (size_t i = 1; i < header_.shape.size(); ++i)
    too_large |= __builtin_mul_overflow(row_bytes_, header_.shape[i], &row_bytes_);
  uint64_t bytes = 0;
  too_large |= __builtin_mul_overflow(row_bytes_, rows(), &bytes);
  if (too_large) return refuse("is of more bytes than can be counted");
  const uint64_t found = file_->size() - begin_;
  if (bytes == found) return absl::OkStatus();
  return refuse(absl::StrFormat("of %s needs %d bytes, there are %d", header_.type, bytes, found));
}

absl::StatusOr<std::string> NpyReader::Read(uint64_t first, uint64_t count) const {
  CONCLAVE_CHECK(first <= rows() && count <= rows() - first);
  std::string bytes(count * row_bytes_, '\0');
  CONCLAVE_RETURN_IF_ERROR(file_->ReadAt(begin_ + first * row_bytes_, bytes.size(), bytes.data()));
  return bytes;
}

}  // namespace conclave::services::cli
