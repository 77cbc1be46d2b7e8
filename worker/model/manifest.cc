#include "worker/model/manifest.h"

#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "worker/model/json.h"
#include "worker/sha256.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

constexpr size_t kDigits = 2 * Sha256::kBytes;

bool IsDigest(std::string_view text) {
  return text.size() == kDigits && text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

}  // namespace

absl::StatusOr<Manifest> ParseManifest(std::string_view text, const std::string& path) {
  Manifest manifest;
  size_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto refuse = [&](const char* why) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: line %d, \"%s\", %s", path, number, Printable(line), why));
    };
    const std::string_view digest = line.substr(0, kDigits);
    if (!IsDigest(digest) || line.size() < kDigits + 3 || line[kDigits] != ' ' ||
        (line[kDigits + 1] != ' ' && line[kDigits + 1] != '*')) {
      return refuse("is not 64 hexadecimal digits, two spaces and a file's name");
    }
    std::string_view name = line.substr(kDigits + 2);
    if (name.starts_with("./")) name.remove_prefix(2);
    if (name.empty() || name.find('/') != name.npos || name == kManifestName)
      return refuse("does not name a file beside it");
    const std::string bytes = absl::HexStringToBytes(std::string(digest));
    if (!manifest.emplace(name, bytes).second) return refuse("names a file that comes twice");
  }
  if (manifest.empty()) return absl::InvalidArgumentError(path + ": names no file");
  return manifest;
}

absl::Status CheckManifest(const Directory& directory,
                           std::span<const std::shared_ptr<const DirectoryFile>> open,
                           size_t bytes_limit) {
  const auto file = directory.OpenFile(kManifestName);
  if (absl::IsNotFound(file.status())) return absl::OkStatus();
  CONCLAVE_RETURN_IF_ERROR(file.status());
  CONCLAVE_ASSIGN_OR_RETURN(const std::string text, (*file)->ReadAll(bytes_limit));
  CONCLAVE_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(text, (*file)->path()));
  std::map<std::string, std::shared_ptr<const DirectoryFile>> files;
  for (const std::shared_ptr<const DirectoryFile>& one : open) {
    files[one->name()] = one;
    if (manifest.contains(one->name())) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: does not name %s", (*file)->path(), Printable(one->name())));
  }
  for (const auto& [name, expected] : manifest) {
    std::shared_ptr<const DirectoryFile> one = files.contains(name) ? files[name] : nullptr;
    if (one == nullptr) {
      CONCLAVE_ASSIGN_OR_RETURN(one, directory.OpenFile(name));
    }
    CONCLAVE_ASSIGN_OR_RETURN(const std::string found, one->Sha256());
    if (found == expected) continue;
    return absl::InvalidArgumentError(absl::StrFormat("%s: has SHA-256 %s, %s says %s", one->path(),
                                                      absl::BytesToHexString(found), kManifestName,
                                                      absl::BytesToHexString(expected)));
  }
  return absl::OkStatus();
}

}  // namespace conclave::worker
