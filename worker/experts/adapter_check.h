#pragma once
// What a worker finds an adapter's directory to be. Plain data; any thread.

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/types.h"

namespace conclave::worker {

struct AdapterCheck {
  std::string digest;                         // the version, in hex
  std::vector<scheduler::ExpertId> replaced;  // ascending, as PlacedAdapter has it
  uint64_t bytes = 0;                         // of all its experts
  uint64_t shared_bytes = 0;                  // of the shared ones among them

  bool operator==(const AdapterCheck&) const = default;
};

}  // namespace conclave::worker
