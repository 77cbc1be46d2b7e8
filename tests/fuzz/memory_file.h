#pragma once
// Bytes as a file in no directory, for readers that take a path. One thread.

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "scheduler/check.h"

namespace conclave::testing {

class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("fuzz", MFD_CLOEXEC)) { CONCLAVE_CHECK(fd_ >= 0); }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // The path of a file with these bytes, until the next call.
  std::string With(const uint8_t* data, size_t size) const {
    CONCLAVE_CHECK(ftruncate(fd_, 0) == 0);
    CONCLAVE_CHECK(pwrite(fd_, data, size, 0) == static_cast<ssize_t>(size));
    return "/proc/self/fd/" + std::to_string(fd_);
  }

 private:
  const int fd_;
};

}  // namespace conclave::testing
