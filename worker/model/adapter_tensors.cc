#include "worker/model/adapter_tensors.h"

#include <map>
#include <utility>

#include "absl/strings/str_format.h"
#include "worker/model/json.h"
#include "worker/model/weight_map.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

constexpr std::string_view kPrefix = "model.";

}  // namespace

absl::StatusOr<std::unique_ptr<const AdapterTensors>> AdapterTensors::Open(
    const Directory& directory, const Limits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                            directory.List(limits.directory_entries));
  auto tensors = std::make_unique<AdapterTensors>();
  std::shared_ptr<const DirectoryFile> index;
  for (const std::string& name : names) {
    const bool of_tensors = name.ends_with(".safetensors");
    if (!of_tensors && name != kWeightMapName) continue;
    if (of_tensors && tensors->contents_.size() == limits.files) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: has more than %d safetensors files",
                                                        directory.path(), limits.files));
    }
    CONCLAVE_ASSIGN_OR_RETURN(std::shared_ptr<const DirectoryFile> file, directory.OpenFile(name));
    tensors->files_.push_back(file);
    if (!of_tensors) {
      index = std::move(file);
    } else {
      CONCLAVE_RETURN_IF_ERROR(tensors->AddFile(std::move(file), limits));
    }
  }
  if (tensors->contents_.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: has no safetensors file", directory.path()));
  }
  CONCLAVE_RETURN_IF_ERROR(tensors->CheckPrefixes());
  if (index != nullptr) CONCLAVE_RETURN_IF_ERROR(tensors->CheckIndex(*index, limits));
  return tensors;
}

absl::Status AdapterTensors::AddFile(std::shared_ptr<const DirectoryFile> file,
                                     const Limits& limits) {
  const std::string& path = file->path();
  std::string first(std::min<uint64_t>(kSafetensorsLengthBytes, file->size()), '\0');
  CONCLAVE_RETURN_IF_ERROR(file->ReadAt(0, first.size(), first.data()));
  CONCLAVE_ASSIGN_OR_RETURN(const uint64_t length,
                            SafetensorsHeaderBytes(first, file->size(), path, limits.header));
  std::string header(length, '\0');
  CONCLAVE_RETURN_IF_ERROR(file->ReadAt(kSafetensorsLengthBytes, length, header.data()));
  auto added = std::make_unique<File>();
  CONCLAVE_ASSIGN_OR_RETURN(added->tensors,
                            ParseSafetensorsHeader(header, file->size(), path, limits.header));
  added->file = std::move(file);
  for (const TensorEntry& entry : added->tensors) {
    const auto [other, is_new] = by_name_.emplace(entry.name, all_.size());
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: tensor \"%s\" is in %s too",
                                                        added->file->path(), Printable(entry.name),
                                                        all_[other->second].file->path()));
    }
    all_.push_back({added->file, &entry});
  }
  contents_.push_back(std::move(added));
  return absl::OkStatus();
}

absl::Status AdapterTensors::CheckPrefixes() {
  const auto is_bare = [](const Tensor& tensor) {
    return !tensor.entry->name.starts_with(kPrefix);
  };
  for (const Tensor& tensor : all_) {
    const std::string& name = tensor.entry->name;
    if (!is_bare(tensor) || name.starts_with("layers.")) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor \"%s\" is of no expert: their names begin with \"layers.\" or "
                        "\"model.layers.\"",
                        tensor.file->path(), Printable(name)));
  }
  bare_ = !all_.empty() && is_bare(all_.front());
  for (const Tensor& tensor : all_) {
    if (is_bare(tensor) == bare_) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor \"%s\" is named %s \"model.\", \"%s\" of %s is not", tensor.file->path(),
        Printable(tensor.entry->name), bare_ ? "with" : "without",
        Printable(all_.front().entry->name), all_.front().file->path()));
  }
  return absl::OkStatus();
}

absl::Status AdapterTensors::CheckIndex(const DirectoryFile& index, const Limits& limits) const {
  CONCLAVE_ASSIGN_OR_RETURN(const std::string bytes, index.ReadAll(limits.index_bytes));
  CONCLAVE_ASSIGN_OR_RETURN(const WeightMap map,
                            ParseWeightMap(bytes, index.path(), limits.index_bytes));
  for (const auto& [name, file] : std::map(map.begin(), map.end())) {
    const auto found = by_name_.find(name);
    if (found != by_name_.end() && all_[found->second].file->name() == file) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor \"%s\" is not in %s, %s", index.path(), Printable(name), Printable(file),
        found == by_name_.end() ? "nor in any file here"
                                : "but in " + all_[found->second].file->name()));
  }
  for (const Tensor& tensor : all_) {
    if (map.contains(tensor.entry->name)) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: does not name tensor \"%s\", which is in %s", index.path(),
                        Printable(tensor.entry->name), tensor.file->name()));
  }
  return absl::OkStatus();
}

AdapterTensors::Tensor AdapterTensors::Find(const std::string& name) const {
  const auto found = by_name_.find(NameHere(name));
  return found == by_name_.end() ? Tensor() : all_[found->second];
}

std::string AdapterTensors::NameHere(const std::string& name) const {
  return bare_ ? name.substr(kPrefix.size()) : name;
}

absl::Status AdapterTensors::CheckUnchanged() const {
  for (const std::shared_ptr<const DirectoryFile>& file : files_)
    CONCLAVE_RETURN_IF_ERROR(file->CheckUnchanged());
  return absl::OkStatus();
}

}  // namespace conclave::worker
