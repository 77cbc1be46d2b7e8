// Memory of the device: anonymous pages, so that a cache costs nothing before it is written.

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/device/cpu/cpu_device.h"

namespace conclave::worker {

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Pages::~Pages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::StatusOr<Pages> Pages::Map(size_t bytes, std::string_view name) {
  const size_t length = std::max<size_t>(bytes, 1);
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", std::string(name), ", ",
                                                     bytes, " bytes: ", std::strerror(error)));
  }
  return Pages(data, length);
}

absl::StatusOr<void*> CpuDevice::Allocate(size_t bytes, std::string_view name) {
  absl::StatusOr<Pages> pages = Pages::Map(bytes, name);
  if (!pages.ok()) return pages.status();
  allocated_.push_back(*std::move(pages));
  return allocated_.back().data();
}

}  // namespace conclave::worker
