#pragma once
// A file mapped for reading: its pages are the page cache's, shared with every process that maps
// it, and take memory only when touched. Immutable after Open; read by any thread.
//
// A file that shrinks while it is mapped cannot be defended against page by page: reading beyond
// its new end raises SIGBUS. That is never silent. Unless the process has a SIGBUS handler of its
// own, the first Open installs one that names the file on stderr and ends the process with status
// 1; the cluster sees a lost worker and resumes its sequences elsewhere. Replace a checkpoint by
// renaming a new one over it, never by writing into it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::worker {

class MappedFile {
 public:
  // NOT_FOUND; INVALID_ARGUMENT (not a regular file, empty, or cannot be read); RESOURCE_EXHAUSTED
  // (cannot be mapped).
  static absl::StatusOr<std::unique_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  const char* data() const { return data_; }

  // Copies out[0, count) from the file without touching the mapping. DATA_LOSS if the file has
  // become shorter.
  absl::Status ReadAt(uint64_t offset, size_t count, char* out) const;

  // Reads what of [offset, offset + count) is not in memory yet, in whole pages and no more: a
  // fault would read what the kernel guesses besides, half as much again of experts that lie apart.
  // Nothing of a small file, or where Linux cannot be asked so: then whoever computes with it waits
  // for its faults.
  void Bring(uint64_t offset, uint64_t count) const;
  bool brings() const { return brings_; }  // anything

  // DATA_LOSS if the file no longer has the size it was mapped with.
  absl::Status CheckSize() const;

 private:
  MappedFile(std::string path, int fd, const char* data, uint64_t size, bool brings);

  const std::string path_;
  const int fd_;
  const char* const data_;
  const uint64_t size_;
  const bool brings_;
  int bus_slot_ = -1;
};

}  // namespace conclave::worker
