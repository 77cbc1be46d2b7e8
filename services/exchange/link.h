#pragma once
// The two ends of an established connection, which carries frames one way. What carries them, TCP
// or a ring of shared memory, does not show.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "worker/experts/transport.h"

namespace conclave::services {

// Why a connection ended.
enum class Loss : uint8_t {
  kEnded = 0,     // the other side closed it, or the network did
  kSilent = 1,    // nothing came for too long
  kHeader = 2,    // a header that is none, or past its limits
  kBody = 3,      // a body that is not what its header says
  kSequence = 4,  // a frame was lost, came twice or out of order
  kFenced = 5,    // a frame of another process, or for another
  kRing = 6,      // a ring whose indexes are nonsense
  kReplaced = 7,  // the other side connected anew
  kForgotten = 8,
};
inline constexpr size_t kLosses = 9;
std::string_view NameOf(Loss loss);

// Counted by all connections of a transport.
struct LinkCounters {
  std::atomic<uint64_t> frames_sent{0}, frames_received{0};
  std::atomic<uint64_t> bytes_sent{0}, bytes_received{0};  // headers and bodies
};

// The end that sends. Reserve and Send: any thread, and they wait for nobody; the rest: the
// transport's thread.
class SendingEnd {
 public:
  virtual ~SendingEnd() = default;
  // As worker::Transport says.
  virtual std::optional<worker::FrameBody> Reserve(size_t size) = 0;
  virtual bool Send(worker::FrameHeader header, worker::FrameBody body) = 0;
  // Lets the other side know that we live, if nothing was sent since it was asked last.
  virtual void SayAlive() = 0;
  // No callback comes after it.
  virtual void Close() = 0;
};

// The end that receives. The transport's thread; Poll: any.
class ReceivingEnd {
 public:
  struct Callbacks {
    // Checked. On the transport's thread or one that polls; one at a time.
    std::function<void(const worker::FrameHeader&, worker::FrameBody)> on_frame;
    std::function<void(Loss)> on_lost;  // once, on the transport's thread
  };
  virtual ~ReceivingEnd() = default;
  // Takes nothing from the connection before.
  virtual void Begin() = 0;
  // Delivers what has arrived, if no other thread does so right now. Whether anything was.
  virtual bool Poll() = 0;
  // How often in a row it was asked this and nothing had come since the last time, nor could have.
  virtual int QuietTicks() = 0;
  // No callback comes after it.
  virtual void Close() = 0;
};

// Believes no frame: headers within limits, numbered one after the other, from one process to
// another, and bodies that are what their headers say. One thread.
class FrameCheck {
 public:
  // hashed: bodies must bring a checksum.
  FrameCheck(const worker::FrameLimits& limits, uint64_t from, uint64_t to, bool hashed)
      : limits_(limits), from_(from), to_(to), hashed_(hashed) {}

  // What is wrong with it; if nothing, `header` is it.
  std::optional<Loss> Header(std::span<const std::byte, worker::kFrameHeaderBytes> bytes,
                             worker::FrameHeader& header);
  std::optional<Loss> Body(const worker::FrameHeader& header,
                           std::span<const std::byte> body) const;

 private:
  const worker::FrameLimits limits_;
  const uint64_t from_, to_;
  const bool hashed_;
  uint64_t sequence_ = 0;  // of the last one
};

}  // namespace conclave::services
