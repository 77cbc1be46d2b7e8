#pragma once
// A directory from outside, whose files are its own: no link in it leads to another place, and what
// is no regular file is not opened for long enough to matter. Files are held open and read by their
// descriptors, never mapped; what one is renamed to or replaced by does not touch it. Any thread.

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::worker {

class DirectoryFile {
 public:
  ~DirectoryFile();
  DirectoryFile(const DirectoryFile&) = delete;
  DirectoryFile& operator=(const DirectoryFile&) = delete;

  const std::string& path() const { return path_; }
  const std::string& name() const { return name_; }
  uint64_t size() const { return static_cast<uint64_t>(opened_.st_size); }

  // out[0, count) = its bytes from offset. DATA_LOSS if it has become shorter or cannot be read.
  absl::Status ReadAt(uint64_t offset, size_t count, char* out) const;
  // All of it. INVALID_ARGUMENT if it is longer than the limit.
  absl::StatusOr<std::string> ReadAll(size_t bytes_limit) const;
  // DATA_LOSS if it was written to since it was opened, as far as the file system tells.
  absl::Status CheckUnchanged() const;
  // Of all of it.
  absl::StatusOr<std::string> Sha256() const;

 private:
  friend class Directory;
  DirectoryFile(std::string path, std::string name, int fd, const struct stat& opened);

  const std::string path_, name_;
  const int fd_;
  const struct stat opened_;
};

class Directory {
 public:
  // NOT_FOUND; INVALID_ARGUMENT: no directory, or cannot be read.
  static absl::StatusOr<std::unique_ptr<const Directory>> Open(const std::string& path);
  ~Directory();
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  const std::string& path() const { return path_; }
  // What is in it, sorted. INVALID_ARGUMENT if that is more than the limit.
  absl::StatusOr<std::vector<std::string>> List(size_t limit) const;
  // `name` is a plain file name. NOT_FOUND; INVALID_ARGUMENT: a link that leads out of the
  // directory or nowhere, not a regular file, or cannot be read; RESOURCE_EXHAUSTED: no descriptor
  // left.
  absl::StatusOr<std::shared_ptr<const DirectoryFile>> OpenFile(const std::string& name) const;

 private:
  Directory(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  const std::string path_;
  const int fd_;
};

}  // namespace conclave::worker
