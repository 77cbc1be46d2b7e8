#pragma once
// What the exchange is measured against: the same bytes thrown to another process and back, with
// nothing around them. One thread at each end.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace conclave::services::bench {

enum class Wait { kSleep, kSpin };  // of both ends, until the other one has answered

// Over a TCP socket of the loopback, Nagle off.
class BareTcp {
 public:
  // Before the fork.
  BareTcp();
  ~BareTcp();
  BareTcp(const BareTcp&) = delete;
  BareTcp& operator=(const BareTcp&) = delete;

  // Which end this process is; after the fork.
  void BeHome() { fd_ = home_; }
  void BeOwner() { fd_ = owner_; }

  void Send(std::span<const std::byte> bytes);
  void Receive(std::span<std::byte> bytes, Wait wait);

 private:
  int home_ = -1, owner_ = -1, fd_ = -1;
};

// Through two buffers in shared memory, one each way: copied in, copied out.
class BareMemory {
 public:
  explicit BareMemory(size_t bytes);
  ~BareMemory();
  BareMemory(const BareMemory&) = delete;
  BareMemory& operator=(const BareMemory&) = delete;

  void BeHome() { out_ = 0; }
  void BeOwner() { out_ = 1; }

  void Send(std::span<const std::byte> bytes);
  void Receive(std::span<std::byte> bytes, Wait wait);

 private:
  struct Lane;
  Lane& lane(int which) const;
  std::byte* buffer(int which) const;

  const size_t bytes_;
  std::byte* data_ = nullptr;
  int out_ = 0;
  uint32_t received_ = 0;
};

}  // namespace conclave::services::bench
