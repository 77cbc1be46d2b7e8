#pragma once
// JSON from outside: bytes to a document, or an error that says where they are wrong. Any thread.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace conclave::worker {

struct JsonLimits {
  size_t bytes = size_t{1} << 20;
  int32_t depth = 32;  // objects and arrays inside each other
};

// `name` stands in messages for where the bytes are from. INVALID_ARGUMENT: too long, not JSON (a
// bare NaN and a number beyond a double are not), not UTF-8, nested too deep, or a key twice in one
// object, which parsers read differently.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view bytes, const std::string& name,
                                         const JsonLimits& limits = {});

// The same of a file's content. NOT_FOUND if there is none.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, const JsonLimits& limits = {});

// Reads a small file whole. NOT_FOUND, INVALID_ARGUMENT (not a regular file, or larger than
// max_bytes).
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

// A name from outside as it may stand in a message: escaped, and cut when it is long.
std::string Printable(std::string_view name);

}  // namespace conclave::worker
