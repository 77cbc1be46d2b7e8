#pragma once
// The words every layer shares. Plain data; any thread.

#include <array>
#include <chrono>
#include <cstdint>

namespace conclave::scheduler {

using TokenId = int32_t;
using BlockId = int32_t;      // index of a fixed run of KV positions
using SequenceId = uint64_t;  // unique on one worker
using ExpertId = uint32_t;    // unique in the whole cluster
using Epoch = uint64_t;       // number of a placement
// A moment: time since an origin the caller chose. Time is always an argument.
using Micros = std::chrono::microseconds;

// Names what a full block of KV positions holds: a digest of everything its numbers depend on, the
// tokens before it included. Equal keys mean equal numbers; whoever makes keys answers for that.
struct BlockKey {
  std::array<uint64_t, 4> words{};
  bool operator==(const BlockKey&) const = default;
};

enum class FinishReason : uint8_t { kStop, kLength, kScored };

}  // namespace conclave::scheduler
