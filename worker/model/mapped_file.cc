#include "worker/model/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_format.h"

namespace conclave::worker {
namespace {

// What the SIGBUS handler may look at: a fixed table of atomics, written by Open and the
// destructor. A slot is taken by setting `begin` from 0 to 1 and published by the address. A file
// beyond the table is mapped but not named.
struct BusSlot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<const char*> path{nullptr};
};
std::array<BusSlot, 256> bus_slots;

void WriteError(const char* text) {
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, text, std::strlen(text));
}

// Async-signal-safe. Of an address that is no mapped file's it says nothing: the handler is already
// reset (SA_RESETHAND), so the faulting access, repeated, ends the process as if there were none.
void OnBusError(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const BusSlot& slot : bus_slots) {
    const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    if (begin <= 1 || address < begin || address >= slot.end.load(std::memory_order_relaxed))
      continue;
    WriteError("a mapped file became shorter or unreadable while in use: ");
    WriteError(slot.path.load(std::memory_order_relaxed));
    WriteError("\n");
    _exit(EXIT_FAILURE);  // the machine's fault or its owner's: there is nothing to find in a core
  }
}

void InstallBusHandlerOnce() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction current = {};
    if (sigaction(SIGBUS, nullptr, &current) != 0) return;
    if ((current.sa_flags & SA_SIGINFO) != 0 || current.sa_handler != SIG_DFL)
      return;  // somebody else's subject
    struct sigaction ours = {};
    ours.sa_sigaction = OnBusError;
    ours.sa_flags = SA_SIGINFO | static_cast<int>(SA_RESETHAND);
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, nullptr);
  });
}

int TakeBusSlot(const char* data, uint64_t size, const char* path) {
  InstallBusHandlerOnce();
  for (size_t i = 0; i < bus_slots.size(); ++i) {
    uintptr_t free = 0;
    if (!bus_slots[i].begin.compare_exchange_strong(free, 1)) continue;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    bus_slots[i].end.store(begin + size, std::memory_order_relaxed);
    bus_slots[i].path.store(path, std::memory_order_relaxed);
    bus_slots[i].begin.store(begin, std::memory_order_release);
    return static_cast<int>(i);
  }
  return -1;
}

// Files so large are mapped in huge pages: of smaller ones those would keep more in memory than is
// used.
constexpr uint64_t kHugeBytes = uint64_t{256} << 20;
constexpr uint64_t kHugePage = uint64_t{2} << 20;

// Since Linux 5.18 a fault in a mapping of huge pages reads such a page; before, where it is to be
// read at random, a small one each.
bool FaultsReadHugePages() {
  utsname system;
  int major = 0, minor = 0;
  if (uname(&system) != 0 || std::sscanf(system.release, "%d.%d", &major, &minor) != 2)
    return false;
  return major > 5 || (major == 5 && minor >= 18);
}

}  // namespace

absl::StatusOr<std::unique_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  const auto error = [&] { return absl::StrFormat("%s: %s", path, std::strerror(errno)); };
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return errno == ENOENT ? absl::NotFoundError(error()) : absl::InvalidArgumentError(error());
  struct stat info;
  absl::Status status;
  void* data = nullptr;
  bool brings = false;
  if (fstat(fd, &info) != 0) {
    status = absl::InvalidArgumentError(error());
  } else if (!S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(absl::StrFormat("%s: is not a regular file", path));
  } else if (info.st_size == 0) {
    status = absl::InvalidArgumentError(absl::StrFormat("%s: is empty", path));
  } else {
    data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      status = absl::ResourceExhaustedError(error());
    } else if (static_cast<uint64_t>(info.st_size) >= kHugeBytes) {
      // What is not in the page cache yet is read into huge pages, where the file system has them:
      // weights stream as fast as from memory of our own. Up to two such pages more than is used
      // are read at the ends of a run of weights.
      brings = madvise(data, static_cast<size_t>(info.st_size), MADV_HUGEPAGE) == 0 &&
               FaultsReadHugePages();
    }
  }
  if (!status.ok()) {
    close(fd);
    return status;
  }
  return std::unique_ptr<const MappedFile>(new MappedFile(
      path, fd, static_cast<const char*>(data), static_cast<uint64_t>(info.st_size), brings));
}

MappedFile::MappedFile(std::string path, int fd, const char* data, uint64_t size, bool brings)
    : path_(std::move(path)),
      fd_(fd),
      data_(data),
      size_(size),
      brings_(brings),
      bus_slot_(TakeBusSlot(data, size, path_.c_str())) {}

MappedFile::~MappedFile() {
  if (bus_slot_ >= 0)
    bus_slots[static_cast<size_t>(bus_slot_)].begin.store(0, std::memory_order_release);
  munmap(const_cast<char*>(data_), size_);
  close(fd_);
}

void MappedFile::Bring(uint64_t offset, uint64_t count) const {
  if (!brings_ || offset >= size_) return;
  const uint64_t begin = offset / kHugePage * kHugePage;
  const uint64_t last = offset + std::min(count, size_ - offset);
  const uint64_t end = std::min((last + kHugePage - 1) / kHugePage * kHugePage, size_);
  char* const data = const_cast<char*>(data_) + begin;
  const auto size = static_cast<size_t>(end - begin);
  // For as long as it takes: pages that are to be read at random are the first that go where memory
  // is short, whoever uses them.
  madvise(data, size, MADV_RANDOM);
  madvise(data, size, MADV_POPULATE_READ);  // what cannot be read a fault will say by name
  madvise(data, size, MADV_NORMAL);
}

absl::Status MappedFile::ReadAt(uint64_t offset, size_t count, char* out) const {
  while (count > 0) {
    const ssize_t n = pread(fd_, out, count, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::DataLossError(absl::StrFormat("%s: %s", path_, std::strerror(errno)));
    if (n == 0)
      return absl::DataLossError(absl::StrFormat("%s: became shorter than %d bytes", path_, size_));
    offset += static_cast<uint64_t>(n);
    out += n;
    count -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status MappedFile::CheckSize() const {
  struct stat info;
  if (fstat(fd_, &info) != 0)
    return absl::DataLossError(absl::StrFormat("%s: %s", path_, std::strerror(errno)));
  if (static_cast<uint64_t>(info.st_size) != size_) {
    return absl::DataLossError(absl::StrFormat("%s: has %d bytes, it had %d when it was mapped",
                                               path_, info.st_size, size_));
  }
  return absl::OkStatus();
}

}  // namespace conclave::worker
