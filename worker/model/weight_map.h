#pragma once
// model.safetensors.index.json: which file of a directory holds which tensor. Untrusted. Any
// thread.

#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/statusor.h"

namespace conclave::worker {

inline constexpr char kWeightMapName[] = "model.safetensors.index.json";

using WeightMap = std::unordered_map<std::string, std::string>;  // tensor -> file

// `path` stands in messages. INVALID_ARGUMENT: too long, no JSON, or a file in it that is no plain
// name in the same directory.
absl::StatusOr<WeightMap> ParseWeightMap(std::string_view bytes, const std::string& path,
                                         size_t bytes_limit);

}  // namespace conclave::worker
