#include "worker/experts/frame.h"

#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // same hash, by the CPU's widest vectors: a fifth of the time and less
#endif

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "scheduler/check.h"

namespace conclave::worker {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kMagic = 0x58564C43;  // "CLVX"
constexpr uint16_t kVersion = 1;

// A header as it travels.
struct Wire {
  uint32_t magic;
  uint16_t version;
  uint8_t kind;
  uint8_t refusal;
  uint8_t type;
  uint8_t zero[3];
  uint32_t layer;
  uint64_t epoch;
  uint64_t plan;
  uint64_t from;
  uint64_t to;
  uint64_t request;
  uint64_t step;
  uint32_t attempt;
  uint32_t rows;
  uint32_t routes;
  uint32_t dim;
  uint64_t body_bytes;
  uint64_t body_hash;
  uint64_t sequence;
  uint32_t sums;
  uint32_t lacking;
  uint32_t more_zero[2];
  uint64_t hash;  // XXH3 of all before it
};
static_assert(sizeof(Wire) == kFrameHeaderBytes);

uint64_t HashOf(const Wire& wire) { return XXH3_64bits(&wire, offsetof(Wire, hash)); }

absl::Status Bad(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("frame: ", std::string(what)));
}

absl::Status TooMany(const char* what, uint64_t number, uint64_t limit) {
  return absl::InvalidArgumentError(
      absl::StrCat("frame: ", number, " ", what, ", the limit is ", limit));
}

size_t BeginOfRows(const FrameHeader& header) {
  if (!IsQuestion(header.kind)) return 0;
  uint64_t bytes = header.routes * uint64_t{sizeof(FrameRoute)};
  if (header.kind == FrameKind::kTerms) bytes += header.routes * uint64_t{sizeof(FrameTerm)};
  return (bytes + kFrameAlignment - 1) / kFrameAlignment * kFrameAlignment;
}

bool OfSums(FrameKind kind) { return kind == FrameKind::kTerms || kind == FrameKind::kSums; }

absl::Status CheckMode(const FrameHeader& h, const FrameLimits& limits) {
  const Returns returns = OfSums(h.kind) ? Returns::kSums : Returns::kRows;
  if (returns == limits.returns) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("frame: its worker returns ", std::string(NameOf(returns)), ", this one ",
                   std::string(NameOf(limits.returns)), "; see --returns"));
}

absl::Status CheckCounts(const FrameHeader& h, const FrameLimits& limits) {
  if (h.kind == FrameKind::kRefusal) {
    if (h.refusal == Refusal::kNone || h.refusal > Refusal::kLacking) return Bad("unknown refusal");
    return h.body_bytes == 0 ? absl::OkStatus() : Bad("a refusal has no body");
  }
  if (h.refusal != Refusal::kNone) return Bad("a refusal of another kind");
  if (h.kind == FrameKind::kAlive) {
    return h.body_bytes == 0 ? absl::OkStatus() : Bad("a sign of life has no body");
  }
  if (const absl::Status mode = CheckMode(h, limits); !mode.ok()) return mode;
  if (h.type != limits.type) return Bad("rows of another type than the model's activations");
  if (h.dim != limits.dim) return Bad("rows of another width than the model's");
  if (h.layer >= limits.layers) return TooMany("is the layer", h.layer, limits.layers);
  if (h.rows > limits.rows) return TooMany("rows", h.rows, limits.rows);
  if (h.routes > limits.routes) return TooMany("routes", h.routes, limits.routes);
  if (h.rows == 0 || h.routes < h.rows) return Bad("a row without a route");
  if (OfSums(h.kind)) {
    if (h.sums > h.routes) return TooMany("sums", h.sums, h.routes);
    if (h.sums < h.rows) return Bad("a row without a sum");
  } else if (h.sums != 0) {
    return Bad("sums of another kind");
  }
  if (h.body_bytes != BodyBytes(h)) return Bad("its length does not follow from its counts");
  return absl::OkStatus();
}

}  // namespace

std::string_view NameOf(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNone:
      return "none";
    case Refusal::kEpoch:
      return "epoch";
    case Refusal::kNotOwned:
      return "not_owned";
    case Refusal::kFenced:
      return "fenced";
    case Refusal::kBusy:
      return "busy";
    case Refusal::kChanged:
      return "changed";
    case Refusal::kLacking:
      return "lacking";
  }
  return "unknown";
}

std::string_view NameOf(Returns returns) { return returns == Returns::kSums ? "sums" : "rows"; }

FrameHeaderBytes EncodeHeader(const FrameHeader& header) {
  Wire wire = {.magic = kMagic,
               .version = kVersion,
               .kind = static_cast<uint8_t>(header.kind),
               .refusal = static_cast<uint8_t>(header.refusal),
               .type = static_cast<uint8_t>(header.type),
               .zero = {},
               .layer = header.layer,
               .epoch = header.epoch,
               .plan = header.plan,
               .from = header.from,
               .to = header.to,
               .request = header.request,
               .step = header.step,
               .attempt = header.attempt,
               .rows = header.rows,
               .routes = header.routes,
               .dim = header.dim,
               .body_bytes = header.body_bytes,
               .body_hash = header.body_hash,
               .sequence = header.sequence,
               .sums = header.sums,
               .lacking = header.lacking,
               .more_zero = {},
               .hash = 0};
  wire.hash = HashOf(wire);
  return std::bit_cast<FrameHeaderBytes>(wire);
}

absl::StatusOr<FrameHeader> ParseHeader(std::span<const std::byte, kFrameHeaderBytes> bytes,
                                        const FrameLimits& limits) {
  Wire wire;
  std::memcpy(&wire, bytes.data(), sizeof wire);
  if (wire.magic != kMagic) return Bad("not one");
  if (wire.version != kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame: of version ", wire.version, ", ours is ", kVersion));
  }
  if (wire.hash != HashOf(wire)) return Bad("its header's checksum is wrong");
  if (wire.kind < 1 || wire.kind > static_cast<uint8_t>(FrameKind::kSums))
    return Bad("of an unknown kind");
  if (wire.type > static_cast<uint8_t>(DType::kF16)) return Bad("of an unknown type");
  const FrameHeader header = {.kind = static_cast<FrameKind>(wire.kind),
                              .refusal = static_cast<Refusal>(wire.refusal),
                              .type = static_cast<DType>(wire.type),
                              .layer = wire.layer,
                              .epoch = wire.epoch,
                              .plan = wire.plan,
                              .from = wire.from,
                              .to = wire.to,
                              .request = wire.request,
                              .step = wire.step,
                              .attempt = wire.attempt,
                              .rows = wire.rows,
                              .routes = wire.routes,
                              .sums = wire.sums,
                              .lacking = wire.lacking,
                              .dim = wire.dim,
                              .body_bytes = wire.body_bytes,
                              .body_hash = wire.body_hash,
                              .sequence = wire.sequence};
  const absl::Status counts = CheckCounts(header, limits);
  if (!counts.ok()) return counts;
  return header;
}

uint64_t BodyBytes(const FrameHeader& header) {
  const uint64_t row = uint64_t{header.dim} * SizeOf(header.type);
  switch (header.kind) {
    case FrameKind::kRows:
    case FrameKind::kTerms:
      return BeginOfRows(header) + header.rows * row;
    case FrameKind::kResults:
      return header.routes * row;
    case FrameKind::kSums:
      return header.sums * row;
    case FrameKind::kRefusal:
    case FrameKind::kAlive:
      break;
  }
  return 0;
}

uint64_t HashBody(std::span<const std::byte> body) {
  const uint64_t hash = XXH3_64bits(body.data(), body.size());
  return hash == 0 ? 1 : hash;  // 0 says that there is none
}

absl::Status CheckBody(const FrameHeader& header, std::span<const std::byte> body,
                       const FrameLimits& limits) {
  if (body.size() != header.body_bytes) return Bad("its body has another length");
  if (header.body_hash != 0 && header.body_hash != HashBody(body))
    return Bad("its body's checksum is wrong");
  if (!IsQuestion(header.kind)) return absl::OkStatus();
  const std::span<const FrameRoute> routes = RoutesOf(header, body);
  const absl::Status checked = CheckRoutes(header, routes, limits);
  if (!checked.ok() || header.kind == FrameKind::kRows) return checked;
  return CheckTerms(header, routes, TermsOf(header, body));
}

absl::Status CheckRoutes(const FrameHeader& header, std::span<const FrameRoute> routes,
                         const FrameLimits& limits) {
  for (const FrameRoute& route : routes) {
    if (route.row >= header.rows) return Bad("a route of a row that is not there");
    if (route.expert >= limits.experts)
      return TooMany("is the expert", route.expert, limits.experts);
  }
  return absl::OkStatus();
}

absl::Status CheckTerms(const FrameHeader& header, std::span<const FrameRoute> routes,
                        std::span<const FrameTerm> terms) {
  uint32_t next = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    if (next > 0 && terms[i].sum == next - 1) {
      if (routes[i].row != routes[i - 1].row) return Bad("a sum of several rows");
      continue;
    }
    if (terms[i].sum != next || next == header.sums) return Bad("a sum out of order");
    ++next;
  }
  return next == header.sums ? absl::OkStatus() : Bad("a sum of nothing");
}

std::span<const FrameRoute> RoutesOf(const FrameHeader& header, std::span<const std::byte> body) {
  CONCLAVE_CHECK(IsQuestion(header.kind));
  return {reinterpret_cast<const FrameRoute*>(body.data()), header.routes};
}

std::span<FrameRoute> MutableRoutesOf(const FrameHeader& header, std::span<std::byte> body) {
  CONCLAVE_CHECK(IsQuestion(header.kind));
  return {reinterpret_cast<FrameRoute*>(body.data()), header.routes};
}

std::span<const FrameTerm> TermsOf(const FrameHeader& header, std::span<const std::byte> body) {
  CONCLAVE_CHECK(header.kind == FrameKind::kTerms);
  const std::byte* const terms = body.data() + header.routes * sizeof(FrameRoute);
  return {reinterpret_cast<const FrameTerm*>(terms), header.routes};
}

std::span<FrameTerm> MutableTermsOf(const FrameHeader& header, std::span<std::byte> body) {
  CONCLAVE_CHECK(header.kind == FrameKind::kTerms);
  std::byte* const terms = body.data() + header.routes * sizeof(FrameRoute);
  return {reinterpret_cast<FrameTerm*>(terms), header.routes};
}

std::span<const std::byte> RowsOf(const FrameHeader& header, std::span<const std::byte> body) {
  return body.subspan(BeginOfRows(header));
}

std::span<std::byte> MutableRowsOf(const FrameHeader& header, std::span<std::byte> body) {
  return body.subspan(BeginOfRows(header));
}

void PackRow(const float* row, size_t dim, DType type, std::byte* out) {
  if (type != DType::kBF16) {
    std::memcpy(out, row, dim * sizeof(float));
    return;
  }
  auto* to = reinterpret_cast<uint16_t*>(out);
  for (size_t i = 0; i < dim; ++i) to[i] = ToBf16(row[i]);
}

void UnpackRow(const std::byte* row, size_t dim, DType type, float* out) {
  if (type != DType::kBF16) {
    std::memcpy(out, row, dim * sizeof(float));
    return;
  }
  const auto* from = reinterpret_cast<const uint16_t*>(row);
  for (size_t i = 0; i < dim; ++i) out[i] = FromBf16(from[i]);
}

}  // namespace conclave::worker
