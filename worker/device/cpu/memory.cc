// Memory of the device: anonymous pages, which cost nothing before they are written unless they are
// taken at once.

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
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

namespace {

absl::Status NoMemory(size_t bytes, std::string_view name, int error) {
  return absl::ResourceExhaustedError(absl::StrCat("no memory for ", std::string(name), ", ", bytes,
                                                   " bytes: ", std::strerror(error)));
}

// What Linux could give without swapping; nothing if it does not say.
std::optional<size_t> AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  size_t kilobytes = 0;
  while (file >> word) {
    if (word == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<Pages> Pages::Map(size_t bytes, std::string_view name) {
  const size_t length = std::max<size_t>(bytes, 1);
  void* data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return NoMemory(bytes, name, errno);
  // Huge pages save looking up addresses; in less memory than a few of them too much would be
  // resident that nobody touches.
  constexpr size_t kWorthHugePages = size_t{8} << 20;
  if (length >= kWorthHugePages) madvise(data, length, MADV_HUGEPAGE);
  return Pages(data, length);
}

absl::Status Pages::TakeNow(std::string_view name) {
  // The kernel would rather end a process than refuse it memory.
  if (const auto available = AvailableBytes(); available && *available < bytes_)
    return NoMemory(bytes_, name, ENOMEM);
  if (madvise(data_, bytes_, MADV_POPULATE_WRITE) == 0) return absl::OkStatus();
  if (errno != EINVAL) return NoMemory(bytes_, name, errno);
  // A kernel before 5.14: a byte of each page.
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t at = 0; at < bytes_; at += page) static_cast<volatile char*>(data_)[at] = 0;
  return absl::OkStatus();
}

absl::StatusOr<void*> CpuDevice::Allocate(size_t bytes, std::string_view name, Take take) {
  absl::StatusOr<Pages> pages = Pages::Map(bytes, name);
  if (!pages.ok()) return pages.status();
  if (take == Take::kNow) {
    if (const absl::Status taken = pages->TakeNow(name); !taken.ok()) return taken;
  }
  allocated_.push_back(*std::move(pages));
  return allocated_.back().data();
}

}  // namespace conclave::worker
