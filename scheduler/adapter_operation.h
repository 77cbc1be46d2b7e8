#pragma once
// An operator's change of the adapters that are served: plain data. Any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/types.h"

namespace conclave::scheduler {

// Why something failed; numbered as gRPC does, as much of it comes from workers.
enum class AdapterError : int32_t {
  kNone = 0,
  kInvalid = 3,
  kTooLate = 4,
  kNotFound = 5,
  kExists = 6,
  kFull = 8,
  kNotNow = 9,
  kBusy = 10,
  kInternal = 13,
  kUnavailable = 14,
};

// What a worker has found in a directory.
struct FoundAdapter {
  std::string digest;
  std::vector<ExpertId> replaced;  // as PlacedAdapter's
  uint64_t bytes = 0;              // of its experts, as a worker holds them
  uint64_t shared_bytes = 0;       // of those among them that every worker holds
  AdapterError error = AdapterError::kNone;
  std::string message;
};

enum class AdapterStage : uint8_t { kChecking, kPlacing, kDraining, kDone, kFailed };
inline bool IsOpen(AdapterStage stage) { return stage < AdapterStage::kDone; }

struct AdapterOperation {
  std::string id;
  bool removes = false;  // else it adds
  std::string name;
  std::string source;  // of what is added, a directory
  AdapterStage stage = AdapterStage::kChecking;
  uint64_t check = 0;  // number of the check
  // The version that is added, once it is checked, or removed.
  std::string digest;
  std::vector<ExpertId> experts;  // that it replaces
  uint64_t bytes = 0;
  uint64_t shared_bytes = 0;  // FoundAdapter's
  std::string replaced;       // the version that had the name before, if it was another
  uint64_t bytes_freed = 0;
  AdapterError error = AdapterError::kNone;
  std::string message;

  bool operator==(const AdapterOperation&) const = default;
};

// Why this cannot be an adapter's name; empty if it can. It stands in MODEL:NAME and NAME@DIGEST,
// in labels of metrics, and beside words of our own.
std::string ProblemOfAdapterName(std::string_view name, size_t limit);

}  // namespace conclave::scheduler
