#pragma once
// The first words on a connection between workers' transports: who connects, whom it means, and
// what both must agree on before a frame can be read. One direction: frames go from who connects to
// who accepts. Pure functions; any thread.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "worker/experts/frame.h"

namespace conclave::services {

// A ring of shared memory as its sender made it; what it hands over is as large as this says.
struct RingShape {
  uint32_t slots = 0;  // frames in it; a power of two; 0: no ring
  uint64_t arena = 0;  // bytes of bodies
  bool operator==(const RingShape&) const = default;
};

struct Hello {
  std::string from_id;
  uint64_t from = 0;  // incarnation
  std::string to_id;
  uint64_t to = 0;
  std::string numerics;
  worker::FrameLimits limits;  // of what the sender will send
  RingShape ring;
};

// What the other side says to a hello.
enum class Verdict : uint8_t {
  kWelcome = 0,
  kNotAHello = 1,
  kVersion = 2,
  kNotMe = 3,         // meant for another process, perhaps this worker's past one
  kUnknown = 4,       // not one of the cluster's workers, as far as is known here, or no more
  kNumerics = 5,      // computes other bits
  kLimits = 6,        // another model, or larger steps than are taken here
  kUnauthorized = 7,  // may not connect
  kCarrier = 8,       // by TCP where only shared memory is taken, or the reverse
  kRing = 9,          // what was handed over is not the ring the hello describes
};
inline constexpr size_t kVerdicts = 10;
std::string_view NameOf(Verdict verdict);
// What a worker's numerics follow from, for whoever is told that two differ.
inline constexpr std::string_view kNumericsFlags =
    "--numerics, --weights, --dense-weights and --returns";

inline constexpr size_t kMaxHelloText = 64;  // of an id, and of numerics
inline constexpr size_t kHelloBytes = 320;
inline constexpr size_t kReplyBytes = 32;
using HelloBytes = std::array<std::byte, kHelloBytes>;
using ReplyBytes = std::array<std::byte, kReplyBytes>;

// Texts longer than kMaxHelloText are a broken invariant.
HelloBytes EncodeHello(const Hello& hello);
// Whether what came so far may become a hello; nothing may.
bool BeginsAHello(std::span<const std::byte> bytes);
// kWelcome and the hello, or kNotAHello or kVersion.
Verdict ParseHello(std::span<const std::byte, kHelloBytes> bytes, Hello& hello);

ReplyBytes EncodeReply(Verdict verdict);
// Nothing, if it is not a reply.
std::optional<Verdict> ParseReply(std::span<const std::byte, kReplyBytes> bytes);

// The abstract name of the Unix socket on which the process takes rings.
std::string RingName(const std::string& id, uint64_t incarnation);

// What `hello` deserves of the process `self` describes as if it were to greet itself: its id and
// incarnation as to, its numerics, and what it takes as limits.
Verdict JudgeHello(const Hello& hello, const Hello& self);

}  // namespace conclave::services
