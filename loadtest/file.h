#pragma once
// Files from outside, read whole within a limit and told by line in what is wrong with them.

#include <cstddef>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::loadtest {

// NOT_FOUND or INVALID_ARGUMENT (larger than `limit_bytes`), naming the file.
absl::StatusOr<std::string> ReadWhole(const std::string& path, size_t limit_bytes);

// Hands over each line that is not empty, with its number from 1, without a carriage return. The
// first error ends it and is returned as INVALID_ARGUMENT "PATH:LINE: ..."; a line above
// kMaxLineBytes is one.
inline constexpr size_t kMaxLineBytes = size_t{1} << 20;
using TakeLine = std::function<absl::Status(size_t number, const std::string& line)>;
absl::Status ForEachLine(const std::string& path, const std::string& text, const TakeLine& take);

}  // namespace conclave::loadtest
