#pragma once
// A ring of frames in memory that two processes share: one sends, one receives. A sender writes a
// body where the receiver reads it; slots say which bodies were sent, in order; the receiver frees
// them in any order. Only memory: who wakes whom is for the two ends to arrange.
//
// Neither side believes the other. What it needs to know it keeps for itself; what it reads from
// shared memory it copies once and checks. The worst that either can do is to send or to lose
// nonsense, which is what it could do over a socket too. Bodies alone are read in place: their
// numbers may change under the reader's hands, its memory may not suffer from that.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "services/exchange/hello.h"
#include "worker/experts/transport.h"

namespace conclave::services {

struct RingHead;
struct RingSlot;

// The mapping, as long as anybody has a body in it.
class RingMemory {
 public:
  static constexpr uint32_t kMaxSlots = 4096;
  static uint64_t BytesOf(const RingShape& shape);

  // New memory that cannot change its size; `fd` is to be handed over. UNAVAILABLE if there is
  // none.
  static absl::StatusOr<std::unique_ptr<RingMemory>> Create(const RingShape& shape);
  // Another process's memory. Takes the descriptor. INVALID_ARGUMENT if it is not what the shape
  // says, could shrink, or its arena is larger than `max_arena`.
  static absl::StatusOr<std::unique_ptr<RingMemory>> Map(int fd, const RingShape& shape,
                                                         uint64_t max_arena);
  ~RingMemory();
  RingMemory(const RingMemory&) = delete;
  RingMemory& operator=(const RingMemory&) = delete;

  const RingShape& shape() const { return shape_; }
  int fd() const { return fd_; }
  RingHead& head() const;
  RingSlot& slot(uint64_t number) const;
  std::byte* arena() const;

 private:
  RingMemory(const RingShape& shape, int fd, std::byte* data)
      : shape_(shape), fd_(fd), data_(data) {}

  const RingShape shape_;
  const int fd_;
  std::byte* const data_;
};

// Any thread.
class RingSender final : public worker::FrameBody::Owner,
                         public std::enable_shared_from_this<RingSender> {
 public:
  explicit RingSender(std::unique_ptr<RingMemory> memory);

  int fd() const { return memory_->fd(); }
  const RingShape& shape() const { return memory_->shape(); }

  // Memory of the ring, aligned to 64, lowest first so that little of it is ever touched. Nothing
  // if there is no room until the receiver frees some.
  std::optional<worker::FrameBody> Reserve(size_t size);

  enum class Sent { kNoRoom, kSent, kWake };  // kWake: and the receiver sleeps
  // The body is one that Reserve gave, or an empty one.
  Sent Send(const worker::FrameHeaderBytes& header, worker::FrameBody body);

  // Nothing is reserved or sent from now on. Without it a ring with frames on their way stays.
  void Abandon();

  void Release(std::byte* data, size_t size) override;

 private:
  void CollectFreed();  // sending_ held

  const std::unique_ptr<RingMemory> memory_;
  std::mutex sending_;  // guards what follows
  bool abandoned_ = false;
  uint64_t next_ = 0;                        // slot to be sent next
  uint64_t oldest_ = 0;                      // not known to be free
  std::vector<worker::FrameBody> in_slots_;  // bodies on their way
  std::vector<bool> freed_;                  // [slots]

  std::mutex arena_;                   // guards what follows; taken after sending_
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes
};

// Take, Sleep, WakeUp: one thread at a time. Bodies are given back on any thread.
class RingReceiver final : public std::enable_shared_from_this<RingReceiver> {
 public:
  explicit RingReceiver(std::unique_ptr<RingMemory> memory) : memory_(std::move(memory)) {}

  struct Taken {
    enum class What { kNothing, kFrame, kNonsense } what = What::kNothing;
    worker::FrameHeaderBytes header{};
    worker::FrameBody body;
  };
  Taken Take();

  // Asks to be woken for the next frame. False: there is one already.
  bool Sleep();
  // Looks by itself from now on.
  void WakeUp();

 private:
  class Lease;

  const std::unique_ptr<RingMemory> memory_;
  uint64_t next_ = 0;
};

}  // namespace conclave::services
