#include "worker/experts/sealed_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "scheduler/check.h"
#include "worker/sha256.h"

namespace conclave::worker {
namespace {

absl::Status Failed(const char* what, uint64_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrFormat("%d bytes of shared memory: %s: %s", bytes, what, std::strerror(errno)));
}

}  // namespace

absl::StatusOr<SealedMemory> SealedMemory::Create(const std::string& name, uint64_t bytes) {
  CONCLAVE_CHECK(bytes > 0);
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return Failed("memfd_create", bytes);
  SealedMemory memory(fd, bytes);
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) return Failed("ftruncate", bytes);
  return memory;
}

SealedMemory::~SealedMemory() {
  if (fd_ >= 0) close(fd_);
}

SealedMemory::SealedMemory(SealedMemory&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), size_(other.size_), written_(other.written_) {}

SealedMemory& SealedMemory::operator=(SealedMemory&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  std::swap(written_, other.written_);
  return *this;
}

absl::Status SealedMemory::Append(std::string_view bytes) {
  if (bytes.size() > size_ - written_) {
    return absl::InvalidArgumentError(absl::StrFormat("%d bytes where there is room for %d of %d",
                                                      bytes.size(), size_ - written_, size_));
  }
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(written_));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Failed("write", size_);
    bytes.remove_prefix(static_cast<size_t>(n));
    written_ += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status SealedMemory::Seal() {
  if (written_ != size_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("ended after %d of %d bytes", written_, size_));
  }
  if (fcntl(fd_, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return Failed("F_ADD_SEALS", size_);
  return absl::OkStatus();
}

absl::Status SealedMemory::MapAt(void* address) const {
  const void* const mapped = mmap(address, size_, PROT_READ, MAP_SHARED | MAP_FIXED, fd_, 0);
  return mapped == MAP_FAILED ? Failed("mmap", size_) : absl::OkStatus();
}

absl::StatusOr<std::string> SealedMemory::Sha256() const {
  void* const mapped = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_, 0);
  if (mapped == MAP_FAILED) return Failed("mmap", size_);
  worker::Sha256 hash;
  hash.Add({static_cast<const char*>(mapped), size_});
  munmap(mapped, size_);
  return hash.Finish();
}

}  // namespace conclave::worker
