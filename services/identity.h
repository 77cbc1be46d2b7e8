#pragma once
// Who a worker is: an id that stays over restarts, and an incarnation that grows with each, so that
// the past of a worker is told from its present.

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::services {

inline constexpr size_t kMaxIdBytes = 64;

// INVALID_ARGUMENT unless it is [A-Za-z0-9._-]{1,64}.
absl::Status ValidateId(const std::string& id);

// This machine's name, made a valid id.
std::string DefaultId();

// The next incarnation: the time in nanoseconds, or one more than what `directory` remembers if
// the clock went back. An empty directory name remembers nothing. DATA_LOSS when what is remembered
// is not a number, UNAVAILABLE when it cannot be written.
absl::StatusOr<uint64_t> NextIncarnation(const std::string& directory);

}  // namespace conclave::services
