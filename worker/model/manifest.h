#pragma once
// SHA256SUMS: what the files of a directory should be, in the format of sha256sum, one line each:
// 64 hexadecimal digits, a space, a space or an asterisk, the file's name. Untrusted. Any thread.

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/directory.h"

namespace conclave::worker {

inline constexpr char kManifestName[] = "SHA256SUMS";

using Manifest = std::map<std::string, std::string>;  // file -> its digest, Sha256::kBytes

// `path` stands in messages. INVALID_ARGUMENT, naming the line: another format, a name twice or of
// a file elsewhere; no file at all.
absl::StatusOr<Manifest> ParseManifest(std::string_view text, const std::string& path);

// Reads every file that the directory's manifest names, if it has one; of those that are open
// already, that very file. INVALID_ARGUMENT: it is no manifest or longer than the limit, one that
// is open is not in it, or a file is not what it says; of Directory::OpenFile the rest.
absl::Status CheckManifest(const Directory& directory,
                           std::span<const std::shared_ptr<const DirectoryFile>> open,
                           size_t bytes_limit);

}  // namespace conclave::worker
