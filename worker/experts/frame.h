#pragma once
// What workers say to each other about experts: a header of fixed size, checked before memory is
// taken for what follows, and a body of rows. Both ends are little-endian. Pure functions; any
// thread.
//
// Everything of a frame comes from outside: ParseHeader believes nothing, and whoever has the body
// calls CheckBody before it reads it.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/types.h"
#include "worker/device/tensor.h"

namespace conclave::worker {

enum class FrameKind : uint8_t {
  kRows = 1,     // home to owner: rows, and which experts are to compute which of them
  kResults = 2,  // back: one row per route, in the routes' order
  kRefusal = 3,  // back instead: nothing was computed; `epoch` is the refuser's
  kAlive = 4,    // between transports alone: the sender lives and has nothing to say
  kTerms = 5,    // in place of kRows where sums are returned: also what is summed of them, how
  kSums = 6,     // in place of kResults: one row per sum, in the terms' order
};

// What an owner returns for a row: what each expert made of it, so that home sums and nobody can
// tell who computed; or less, the sums of experts that the placement puts together, on which
// results then depend. All workers of a cluster do the same.
enum class Returns : uint8_t { kRows, kSums };
std::string_view NameOf(Returns returns);

enum class Refusal : uint8_t {
  kNone = 0,
  kEpoch = 1,     // the frame's epoch is served no more, or not yet known
  kNotOwned = 2,  // an expert is not this worker's
  kFenced = 3,    // sender or receiver is not the process the frame names
  kBusy = 4,      // no room
  kChanged = 5,   // its routes are no longer what they were when it came: shared memory was written
  kLacking = 6,   // an expert is this worker's, an adapter's, and could not be read: `lacking`
};
inline constexpr size_t kRefusals = 7;
std::string_view NameOf(Refusal refusal);

struct FrameHeader {
  FrameKind kind = FrameKind::kRows;
  Refusal refusal = Refusal::kNone;
  DType type = DType::kF32;  // of rows on the wire: the model's activation type
  uint32_t layer = 0;        // MoE layer
  scheduler::Epoch epoch = 0;
  uint64_t plan = 0;     // that made the epoch
  uint64_t from = 0;     // incarnation of the sender's process
  uint64_t to = 0;       // of the receiver's
  uint64_t request = 0;  // the home's number of this frame's question; the answer repeats it
  uint64_t step = 0;     // of the home
  uint32_t attempt = 0;  // 0; more when the same rows were sent before
  uint32_t rows = 0;
  uint32_t routes = 0;
  uint32_t sums = 0;                // of kTerms and kSums
  scheduler::ExpertId lacking = 0;  // of that refusal
  uint32_t dim = 0;
  uint64_t body_bytes = 0;
  uint64_t body_hash = 0;  // XXH3 of the body; 0: the transport answers for it
  uint64_t sequence = 0;   // of the frame on its connection, so that none is lost or comes twice
};

// One row's way to one expert.
struct FrameRoute {
  uint32_t row = 0;
  scheduler::ExpertId expert = 0;
};

// What becomes of a route's result where sums are returned: times weight it is added, in the order
// of routes, to a sum. A sum's routes follow each other and are of one row. A weight may be any
// float: one that is not finite harms nobody but the home that sent it.
struct FrameTerm {
  float weight = 0.0f;
  uint32_t sum = 0;
};

// What a frame of this cluster can be at most.
struct FrameLimits {
  DType type = DType::kF32;
  uint32_t layers = 0;
  uint32_t experts = 0;  // ids are below
  uint32_t dim = 0;
  uint32_t rows = 0;    // a home's step
  uint32_t routes = 0;  // rows * top_k
  Returns returns = Returns::kRows;
};

inline constexpr size_t kFrameHeaderBytes = 128;
inline constexpr size_t kFrameAlignment = 64;  // of the rows in the body of a question
using FrameHeaderBytes = std::array<std::byte, kFrameHeaderBytes>;

FrameHeaderBytes EncodeHeader(const FrameHeader& header);

// INVALID_ARGUMENT, naming what is wrong: not a frame, another version, a wrong checksum, a count
// above its limit, a length that does not follow from the counts.
absl::StatusOr<FrameHeader> ParseHeader(std::span<const std::byte, kFrameHeaderBytes> bytes,
                                        const FrameLimits& limits);

// What body_bytes must be for the kind and counts.
uint64_t BodyBytes(const FrameHeader& header);

uint64_t HashBody(std::span<const std::byte> body);

// That a body is what its header says: length, hash where there is one, routes within rows and
// experts. The header was parsed with the same limits.
absl::Status CheckBody(const FrameHeader& header, std::span<const std::byte> body,
                       const FrameLimits& limits);
// Its part about routes, for who keeps a copy of them: memory of a ring is its sender's too, and
// may have changed since.
absl::Status CheckRoutes(const FrameHeader& header, std::span<const FrameRoute> routes,
                         const FrameLimits& limits);
// And about terms [routes]: every sum has one or more, in order.
absl::Status CheckTerms(const FrameHeader& header, std::span<const FrameRoute> routes,
                        std::span<const FrameTerm> terms);

// Whether a home asks by it, and the kind of the answer that is no refusal.
constexpr bool IsQuestion(FrameKind kind) {
  return kind == FrameKind::kRows || kind == FrameKind::kTerms;
}
constexpr FrameKind AnswerTo(FrameKind kind) {
  return kind == FrameKind::kTerms ? FrameKind::kSums : FrameKind::kResults;
}

// Parts of a body of BodyBytes(header) bytes, which is aligned to 8.
std::span<const FrameRoute> RoutesOf(const FrameHeader& header, std::span<const std::byte> body);
std::span<FrameRoute> MutableRoutesOf(const FrameHeader& header, std::span<std::byte> body);
// Of kTerms alone.
std::span<const FrameTerm> TermsOf(const FrameHeader& header, std::span<const std::byte> body);
std::span<FrameTerm> MutableTermsOf(const FrameHeader& header, std::span<std::byte> body);
// Of questions: the rows; of answers: the results or sums.
std::span<const std::byte> RowsOf(const FrameHeader& header, std::span<const std::byte> body);
std::span<std::byte> MutableRowsOf(const FrameHeader& header, std::span<std::byte> body);

// A row as it travels and back: to BF16 to nearest even, as the device rounds; F32 as it is.
void PackRow(const float* row, size_t dim, DType type, std::byte* out);
void UnpackRow(const std::byte* row, size_t dim, DType type, float* out);

}  // namespace conclave::worker
