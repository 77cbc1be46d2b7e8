#pragma once
// Memory that is written once and then never again by anybody: a memfd under the kernel's seals
// (memfd_create(2), F_ADD_SEALS). What was verified in it stays what was verified. One thread.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::worker {

class SealedMemory {
 public:
  // Of so many bytes, one or more, yet to be written; pages are taken as they are. `name` is how
  // /proc shows it. RESOURCE_EXHAUSTED.
  static absl::StatusOr<SealedMemory> Create(const std::string& name, uint64_t bytes);
  ~SealedMemory();
  SealedMemory(SealedMemory&& other) noexcept;
  SealedMemory& operator=(SealedMemory&& other) noexcept;

  // Before it is sealed. INVALID_ARGUMENT, without effect: more than there is room for;
  // RESOURCE_EXHAUSTED.
  absl::Status Append(std::string_view bytes);
  uint64_t written() const { return written_; }
  uint64_t size() const { return size_; }

  // Once all is written: no write, no change of size, no change of seals from now on.
  // INVALID_ARGUMENT: there is more to write.
  absl::Status Seal();
  // Of what is sealed: read only at `address`, in place of what is mapped there; its pages stay
  // after this object's end, until they are unmapped. RESOURCE_EXHAUSTED.
  absl::Status MapAt(void* address) const;
  // The digest of what is sealed, read from there. RESOURCE_EXHAUSTED.
  absl::StatusOr<std::string> Sha256() const;

  int fd() const { return fd_; }

 private:
  SealedMemory(int fd, uint64_t size) : fd_(fd), size_(size) {}

  int fd_ = -1;
  uint64_t size_ = 0;
  uint64_t written_ = 0;
};

}  // namespace conclave::worker
