#include "services/exchange/hello.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "scheduler/check.h"

namespace conclave::services {
namespace {

constexpr uint32_t kHelloMagic = 0x48564C43;  // "CLVH"
constexpr uint32_t kReplyMagic = 0x52564C43;  // "CLVR"
constexpr uint32_t kVersion = 1;

struct HelloWire {
  uint32_t magic;
  uint32_t version;
  uint64_t from;
  uint64_t to;
  char from_id[kMaxHelloText];
  char to_id[kMaxHelloText];
  char numerics[kMaxHelloText];
  uint32_t type;
  uint32_t layers;
  uint32_t experts;
  uint32_t dim;
  uint32_t rows;
  uint32_t routes;
  uint32_t slots;
  uint32_t zero;
  uint64_t arena;
  uint64_t more_zero[7];
  uint64_t hash;  // XXH3 of all before it
};
static_assert(sizeof(HelloWire) == kHelloBytes);

struct ReplyWire {
  uint32_t magic;
  uint32_t version;
  uint32_t verdict;
  uint32_t zero[3];
  uint64_t hash;
};
static_assert(sizeof(ReplyWire) == kReplyBytes);

template <typename Wire>
uint64_t HashOf(const Wire& wire) {
  return XXH3_64bits(&wire, offsetof(Wire, hash));
}

void Put(const std::string& text, char (&field)[kMaxHelloText]) {
  CONCLAVE_CHECK(text.size() <= kMaxHelloText);
  std::copy(text.begin(), text.end(), field);
}

std::string Get(const char (&field)[kMaxHelloText]) {
  return {field, strnlen(field, kMaxHelloText)};
}

bool Fits(const worker::FrameLimits& sent, const worker::FrameLimits& taken) {
  return sent.type == taken.type && sent.layers == taken.layers && sent.experts == taken.experts &&
         sent.dim == taken.dim && sent.rows <= taken.rows && sent.routes <= taken.routes;
}

}  // namespace

std::string_view NameOf(Verdict verdict) {
  static constexpr std::string_view kNames[kVerdicts] = {
      "welcome",  "not_a_hello", "version",      "not_me",  "unknown",
      "numerics", "limits",      "unauthorized", "carrier", "ring"};
  return kNames[static_cast<size_t>(verdict)];
}

HelloBytes EncodeHello(const Hello& hello) {
  HelloWire wire{};
  wire.magic = kHelloMagic;
  wire.version = kVersion;
  wire.from = hello.from;
  wire.to = hello.to;
  Put(hello.from_id, wire.from_id);
  Put(hello.to_id, wire.to_id);
  Put(hello.numerics, wire.numerics);
  wire.type = static_cast<uint32_t>(hello.limits.type);
  wire.layers = hello.limits.layers;
  wire.experts = hello.limits.experts;
  wire.dim = hello.limits.dim;
  wire.rows = hello.limits.rows;
  wire.routes = hello.limits.routes;
  wire.slots = hello.ring.slots;
  wire.arena = hello.ring.arena;
  wire.hash = HashOf(wire);
  return std::bit_cast<HelloBytes>(wire);
}

bool BeginsAHello(std::span<const std::byte> bytes) {
  const auto magic = std::bit_cast<std::array<std::byte, sizeof kHelloMagic>>(kHelloMagic);
  const size_t compared = std::min(bytes.size(), magic.size());
  return std::equal(magic.begin(), magic.begin() + static_cast<ptrdiff_t>(compared), bytes.begin());
}

Verdict ParseHello(std::span<const std::byte, kHelloBytes> bytes, Hello& hello) {
  HelloWire wire;
  std::memcpy(&wire, bytes.data(), sizeof wire);
  if (wire.magic != kHelloMagic) return Verdict::kNotAHello;
  if (wire.version != kVersion) return Verdict::kVersion;
  if (wire.hash != HashOf(wire) || wire.type > static_cast<uint32_t>(worker::DType::kF16))
    return Verdict::kNotAHello;
  hello = {.from_id = Get(wire.from_id),
           .from = wire.from,
           .to_id = Get(wire.to_id),
           .to = wire.to,
           .numerics = Get(wire.numerics),
           .limits = {.type = static_cast<worker::DType>(wire.type),
                      .layers = wire.layers,
                      .experts = wire.experts,
                      .dim = wire.dim,
                      .rows = wire.rows,
                      .routes = wire.routes},
           .ring = {.slots = wire.slots, .arena = wire.arena}};
  return Verdict::kWelcome;
}

ReplyBytes EncodeReply(Verdict verdict) {
  ReplyWire wire{.magic = kReplyMagic,
                 .version = kVersion,
                 .verdict = static_cast<uint32_t>(verdict),
                 .zero = {},
                 .hash = 0};
  wire.hash = HashOf(wire);
  return std::bit_cast<ReplyBytes>(wire);
}

std::optional<Verdict> ParseReply(std::span<const std::byte, kReplyBytes> bytes) {
  ReplyWire wire;
  std::memcpy(&wire, bytes.data(), sizeof wire);
  if (wire.magic != kReplyMagic || wire.hash != HashOf(wire) || wire.verdict >= kVerdicts)
    return std::nullopt;
  return static_cast<Verdict>(wire.verdict);
}

std::string RingName(const std::string& id, uint64_t incarnation) {
  return "conclave-exchange/" + id + "/" + std::to_string(incarnation);
}

Verdict JudgeHello(const Hello& hello, const Hello& self) {
  if (hello.to_id != self.to_id || hello.to != self.to) return Verdict::kNotMe;
  if (hello.numerics != self.numerics) return Verdict::kNumerics;
  if (!Fits(hello.limits, self.limits)) return Verdict::kLimits;
  return Verdict::kWelcome;
}

}  // namespace conclave::services
