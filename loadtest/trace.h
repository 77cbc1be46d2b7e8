#pragma once
// Recorded arrivals and lengths of a service. Two formats, told apart by the first line:
//   Azure LLM inference (2023, 2024): CSV with the header TIMESTAMP,ContextTokens,GeneratedTokens
//     and UTC times such as 2023-11-16 18:17:03.9799600
//   Mooncake (FAST'25): a JSON object per line, {"timestamp": ms, "input_length", "output_length",
//     "hash_ids"}; an id stands for a block of kTraceBlockTokens prompt tokens, the last one may be
//     cut, and equal ids for equal tokens behind equal ones. Keys besides these are left out.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::loadtest {

inline constexpr uint32_t kTraceBlockTokens = 512;

struct TraceRequest {
  std::chrono::nanoseconds at{0};  // since the first one
  uint32_t prompt_tokens = 0;
  uint32_t output_tokens = 0;
  // Names of the prompt's first blocks; tokens behind them are the request's own.
  std::vector<uint64_t> blocks;
};

struct TraceLimits {
  size_t file_bytes = size_t{1} << 30;
  size_t requests = 2'000'000;
  uint32_t tokens = 1 << 20;  // of one prompt, of one output; each is at least 1
  std::chrono::hours span{24 * 366};
};

// In order of time, not empty. INVALID_ARGUMENT or NOT_FOUND, naming file, line and field.
absl::StatusOr<std::vector<TraceRequest>> ReadTrace(const std::string& path,
                                                    const TraceLimits& limits = {});

}  // namespace conclave::loadtest
