#include "services/exchange/bench/bare.h"

#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <new>

#include "scheduler/check.h"

namespace conclave::services::bench {

BareTcp::BareTcp() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* where = reinterpret_cast<sockaddr*>(&address);
  CONCLAVE_CHECK(bind(listener, where, size) == 0 && listen(listener, 1) == 0 &&
                 getsockname(listener, where, &size) == 0);
  home_ = socket(AF_INET, SOCK_STREAM, 0);
  CONCLAVE_CHECK(connect(home_, where, size) == 0);
  owner_ = accept(listener, nullptr, nullptr);
  CONCLAVE_CHECK(owner_ >= 0);
  close(listener);
  const int on = 1;
  for (const int fd : {home_, owner_}) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

BareTcp::~BareTcp() {
  close(home_);
  close(owner_);
}

void BareTcp::Send(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    CONCLAVE_CHECK(sent > 0);
    bytes = bytes.subspan(static_cast<size_t>(sent));
  }
}

void BareTcp::Receive(std::span<std::byte> bytes, Wait wait) {
  while (!bytes.empty()) {
    const ssize_t got =
        recv(fd_, bytes.data(), bytes.size(), wait == Wait::kSpin ? MSG_DONTWAIT : 0);
    if (got < 0 && errno == EAGAIN) continue;
    CONCLAVE_CHECK(got > 0);
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
}

struct BareMemory::Lane {
  alignas(64) std::atomic<uint32_t> sent{0};
  alignas(64) std::atomic<uint32_t> sleeping{0};
};

BareMemory::BareMemory(size_t bytes) : bytes_((bytes + 4095) / 4096 * 4096) {
  void* data =
      mmap(nullptr, 4096 + 2 * bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CONCLAVE_CHECK(data != MAP_FAILED);
  data_ = static_cast<std::byte*>(data);
  new (data_) Lane[2];
}

BareMemory::~BareMemory() { munmap(data_, 4096 + 2 * bytes_); }

BareMemory::Lane& BareMemory::lane(int which) const {
  return std::launder(reinterpret_cast<Lane*>(data_))[which];
}

std::byte* BareMemory::buffer(int which) const {
  return data_ + 4096 + static_cast<size_t>(which) * bytes_;
}

void BareMemory::Send(std::span<const std::byte> bytes) {
  std::memcpy(buffer(out_), bytes.data(), bytes.size());
  Lane& lane = this->lane(out_);
  lane.sent.fetch_add(1);
  if (lane.sleeping.exchange(0) != 0)
    syscall(SYS_futex, &lane.sent, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void BareMemory::Receive(std::span<std::byte> bytes, Wait wait) {
  Lane& lane = this->lane(1 - out_);
  while (lane.sent.load(std::memory_order_acquire) == received_) {
    if (wait == Wait::kSpin) continue;
    lane.sleeping.store(1);
    syscall(SYS_futex, &lane.sent, FUTEX_WAIT, received_, nullptr, nullptr, 0);
  }
  ++received_;
  std::memcpy(bytes.data(), buffer(1 - out_), bytes.size());
}

}  // namespace conclave::services::bench
