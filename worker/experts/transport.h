#pragma once
// The seam under the exchange: frames to and from other workers, in order per peer and direction.
// The step does not know whether they travel within the process, by shared memory or by TCP.
//
// Threads: every method from any thread; none waits for a peer. The sink is called on threads of
// the transport, for one peer by one thread at a time, and must not block.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "worker/experts/frame.h"

namespace conclave::worker {

// Another worker's process.
struct Peer {
  std::string id;
  uint64_t incarnation = 0;
  std::string address;  // of its exchange
  bool alive = true;    // as the cluster says
  bool operator==(const Peer&) const = default;
};

// Stands for one (id, incarnation) as long as the transport lives.
using PeerIndex = int32_t;

// The memory of one body, a transport's: a buffer of a pool, or a part of a ring. Given back when
// it goes; any thread.
class FrameBody {
 public:
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void Release(std::byte* data, size_t size) = 0;
  };

  FrameBody() = default;
  FrameBody(std::shared_ptr<Owner> owner, std::byte* data, size_t size)
      : owner_(std::move(owner)), data_(data), size_(size) {}
  FrameBody(FrameBody&& other) noexcept { *this = std::move(other); }
  FrameBody& operator=(FrameBody&& other) noexcept {
    if (this == &other) return *this;
    Reset();
    owner_ = std::exchange(other.owner_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  ~FrameBody() { Reset(); }

  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  void Reset() {
    if (owner_ != nullptr) owner_->Release(data_, size_);
    owner_ = nullptr;
  }

  std::shared_ptr<Owner> owner_;  // null: nothing to give back
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Who hears of frames.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  // Header and body are checked. The body may be kept; memory of a ring is little, so not for long.
  virtual void OnFrame(PeerIndex from, const FrameHeader& header, FrameBody body) = 0;
  // What was sent to it and not answered may be lost.
  virtual void OnDown(PeerIndex peer) = 0;
  virtual void OnUp(PeerIndex peer) = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;

  // Once, before anything else. The sink outlives the transport's Stop.
  virtual void Start(FrameSink* sink) = 0;
  // No call of the sink runs or comes after it returns.
  virtual void Stop() = 0;

  // Begins to connect, and connects again after a loss until it is told to Forget. The same peer
  // has the same index; -1: it is above a limit.
  virtual PeerIndex Connect(const Peer& peer) = 0;
  virtual void Forget(PeerIndex peer) = 0;
  virtual bool up(PeerIndex peer) const = 0;
  // How far a peer that is up is, to choose among replicas by; smaller is nearer, and 0 shares
  // memory with this process.
  virtual int32_t distance(PeerIndex peer) const = 0;

  // Memory for a body that is to be sent to this peer, `size` bytes, aligned to 64. Nothing if the
  // peer is down or has no room: what was sent and not taken is bounded.
  virtual std::optional<FrameBody> Reserve(PeerIndex to, size_t size) = 0;
  // Sends a frame: a body that Reserve gave for this peer, filled, or an empty one. from, to,
  // body_bytes, body_hash and sequence of the header are the transport's to set. False: the peer is
  // down, or has so much to take already that there is no room for the frame.
  virtual bool Send(PeerIndex to, FrameHeader header, FrameBody body) = 0;

  // For a thread that waits and would rather spin: delivers what has arrived, if nobody else does
  // so right now. Whether anything was delivered. A transport with threads of its own may do
  // nothing.
  virtual bool Poll() { return false; }
  // Around many calls of Poll: between them nobody need be woken for what arrives, and nobody may
  // be. Whatever has arrived by the end is delivered by then, or soon by others.
  virtual void BeginPolling() {}
  virtual void EndPolling() {}

  struct Stats {
    uint64_t frames_sent = 0, frames_received = 0;
    uint64_t bytes_sent = 0, bytes_received = 0;  // headers and bodies
    uint64_t connects = 0, losses = 0;
    uint64_t bad_frames = 0;  // their connection was closed
    uint64_t fenced = 0;      // of a process that is not the one meant
  };
  virtual Stats stats() const = 0;
};

}  // namespace conclave::worker
