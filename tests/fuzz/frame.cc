// Whatever comes in a frame: an error before memory is taken, or a header within its limits and a
// body whose every route leads to a row and an expert that are there, and whose sums have terms.
// The same of a hello.

#include "worker/experts/frame.h"

#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "scheduler/check.h"
#include "services/exchange/hello.h"

namespace {

using namespace conclave;

constexpr worker::FrameLimits kLimits = {
    .type = worker::DType::kBF16, .layers = 3, .experts = 24, .dim = 8, .rows = 16, .routes = 32};
constexpr worker::FrameLimits kSumLimits = {.type = worker::DType::kBF16,
                                            .layers = 3,
                                            .experts = 24,
                                            .dim = 8,
                                            .rows = 16,
                                            .routes = 32,
                                            .returns = worker::Returns::kSums};
constexpr uint64_t kLargestBody = 32 * 16 + 16 * 8 * 2 + 64;

// A checksum keeps a fuzzer out as well as an accident, so half of the inputs get a right one: over
// all but the last eight bytes.
template <size_t kBytes>
std::array<std::byte, kBytes> Sealed(std::span<const std::byte> data) {
  std::array<std::byte, kBytes> bytes{};
  std::copy_n(data.begin(), std::min(data.size(), kBytes), bytes.begin());
  const uint64_t hash = XXH3_64bits(bytes.data(), kBytes - sizeof(uint64_t));
  std::memcpy(bytes.data() + kBytes - sizeof hash, &hash, sizeof hash);
  return bytes;
}

// Every sum's routes follow each other and are of one row.
void CheckSums(const worker::FrameHeader& header, std::span<const std::byte> body) {
  const std::span<const worker::FrameTerm> terms = worker::TermsOf(header, body);
  const std::span<const worker::FrameRoute> routes = worker::RoutesOf(header, body);
  for (size_t i = 1; i < terms.size(); ++i) {
    const bool same = terms[i].sum == terms[i - 1].sum;
    CONCLAVE_CHECK(same || terms[i].sum == terms[i - 1].sum + 1);
    CONCLAVE_CHECK(!same || routes[i].row == routes[i - 1].row);
  }
  CONCLAVE_CHECK(terms.front().sum == 0 && terms.back().sum == header.sums - 1);
}

uint32_t NumbersIn(const worker::FrameHeader& header) {
  if (worker::IsQuestion(header.kind)) return header.rows;
  return header.kind == worker::FrameKind::kSums ? header.sums : header.routes;
}

void TryBody(worker::FrameHeader header, std::span<const std::byte> rest,
             const worker::FrameLimits& limits) {
  std::vector<uint64_t> aligned(kLargestBody / sizeof(uint64_t) + 1);
  const std::span<std::byte> body =
      std::as_writable_bytes(std::span(aligned)).first(header.body_bytes);
  std::copy_n(rest.begin(), std::min(rest.size(), body.size()), body.begin());
  if (header.body_hash % 2 == 0) header.body_hash = worker::HashBody(body);
  if (!worker::CheckBody(header, body, limits).ok()) return;
  if (worker::IsQuestion(header.kind)) {
    for (const worker::FrameRoute& route : worker::RoutesOf(header, body)) {
      CONCLAVE_CHECK(route.row < header.rows);
      CONCLAVE_CHECK(route.expert < limits.experts);
    }
  }
  if (header.kind == worker::FrameKind::kTerms) CheckSums(header, body);
  const std::span<const std::byte> numbers = worker::RowsOf(header, body);
  float row[8];
  for (size_t i = 0; i < NumbersIn(header) && header.body_bytes != 0; ++i) {
    worker::UnpackRow(numbers.subspan(i * 16, 16).data(), 8, header.type, row);
  }
}

void TryFrame(std::span<const std::byte, worker::kFrameHeaderBytes> bytes,
              std::span<const std::byte> rest, const worker::FrameLimits& limits) {
  const auto header = worker::ParseHeader(bytes, limits);
  if (!header.ok()) return;
  CONCLAVE_CHECK(header->body_bytes <= kLargestBody);
  CONCLAVE_CHECK(header->body_bytes == worker::BodyBytes(*header));
  CONCLAVE_CHECK(worker::ParseHeader(worker::EncodeHeader(*header), limits).ok());
  TryBody(*header, rest, limits);
}

void TryHello(std::span<const std::byte> data) {
  services::Hello hello;
  const auto bytes = Sealed<services::kHelloBytes>(data);
  if (services::ParseHello(bytes, hello) != services::Verdict::kWelcome) return;
  services::Hello again;
  CONCLAVE_CHECK(services::ParseHello(services::EncodeHello(hello), again) ==
                 services::Verdict::kWelcome);
  CONCLAVE_CHECK(services::JudgeHello(again, hello) == services::Verdict::kWelcome);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  TryHello(bytes);
  constexpr size_t kHeader = worker::kFrameHeaderBytes;
  const auto rest = bytes.subspan(std::min(size, kHeader));
  for (const worker::FrameLimits& limits : {kLimits, kSumLimits}) {
    TryFrame(Sealed<kHeader>(bytes), rest, limits);
    if (size >= kHeader) TryFrame(bytes.first<kHeader>(), rest, limits);
  }
  return 0;
}
