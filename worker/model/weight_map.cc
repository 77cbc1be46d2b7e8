#include "worker/model/weight_map.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::worker {

absl::StatusOr<WeightMap> ParseWeightMap(std::string_view bytes, const std::string& path,
                                         size_t bytes_limit) {
  CONCLAVE_ASSIGN_OR_RETURN(const nlohmann::json index,
                            ParseJson(bytes, path, {.bytes = bytes_limit}));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: weight_map is missing or no object", path));
  }
  WeightMap files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: weight_map[\"%s\"] is no file name", path, Printable(tensor)));
    }
    const auto& name = file.get_ref<const std::string&>();
    if (name.empty() || name.find('/') != name.npos || name.find('\0') != name.npos ||
        name.front() == '.') {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: weight_map[\"%s\"] = \"%s\" is no file of the directory", path,
                          Printable(tensor), Printable(name)));
    }
    files.emplace(tensor, name);
  }
  return files;
}

}  // namespace conclave::worker
