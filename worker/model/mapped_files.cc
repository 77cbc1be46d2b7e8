#include "worker/model/mapped_files.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <set>

#include "absl/strings/str_format.h"
#include "worker/model/json.h"
#include "worker/model/weight_map.h"
#include "worker/sha256.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

constexpr char kSingleName[] = "model.safetensors";
// Mistral's directories hold the same weights a second time, under names of its own.
constexpr char kCopyPrefix[] = "consolidated";
constexpr size_t kSampleBytes = 64;

absl::StatusOr<std::set<std::string>> ListSafetensors(const std::string& directory) {
  std::set<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator at(directory, error);
  for (; !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
    if (at->path().extension() == ".safetensors") names.insert(at->path().filename().string());
  }
  if (error)
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", directory, error.message()));
  return names;
}

// What is read of a directory.
struct Choice {
  std::set<std::string> files;
  WeightMap index;  // empty: no index was followed
};

// As transformers chooses. `listed` is every safetensors file there is.
absl::StatusOr<Choice> ChooseFiles(const std::string& directory,
                                   const std::set<std::string>& listed, size_t max_index_bytes) {
  Choice choice;
  if (listed.contains(kSingleName)) {
    choice.files = {kSingleName};
    return choice;
  }
  const std::string index_path = directory + "/" + kWeightMapName;
  std::error_code failure;  // and a link that leads nowhere: reading says so
  if (std::filesystem::symlink_status(index_path, failure).type() !=
      std::filesystem::file_type::not_found) {
    CONCLAVE_ASSIGN_OR_RETURN(const std::string index, ReadSmallFile(index_path, max_index_bytes));
    CONCLAVE_ASSIGN_OR_RETURN(choice.index, ParseWeightMap(index, index_path, max_index_bytes));
    for (const auto& [tensor, file] : choice.index) choice.files.insert(file);
    return choice;
  }
  choice.files = listed;
  std::erase_if(choice.files,
                [](const std::string& name) { return name.starts_with(kCopyPrefix); });
  if (choice.files.empty()) choice.files = listed;
  return choice;
}

std::string_view LastComponent(std::string_view path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

absl::StatusOr<std::shared_ptr<const MappedFiles>> MappedFiles::Open(const std::string& directory,
                                                                     const Limits& limits,
                                                                     Absent absent) {
  CONCLAVE_ASSIGN_OR_RETURN(const std::set<std::string> listed, ListSafetensors(directory));
  CONCLAVE_ASSIGN_OR_RETURN(Choice choice, ChooseFiles(directory, listed, limits.index_bytes));
  if (absent == Absent::kSkip) {
    const auto missing = [&](const std::string& file) { return !listed.contains(file); };
    std::erase_if(choice.files, missing);
    std::erase_if(choice.index, [&](const auto& entry) { return missing(entry.second); });
  }
  if (choice.files.empty() || choice.files.size() > limits.files) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: has %d safetensors files, expected 1 to %d", directory,
                        choice.files.size(), limits.files));
  }

  auto files = std::make_shared<MappedFiles>();
  files->directory_ = directory;
  std::set_difference(listed.begin(), listed.end(), choice.files.begin(), choice.files.end(),
                      std::back_inserter(files->ignored_));
  for (const std::string& name : choice.files) {
    CONCLAVE_RETURN_IF_ERROR(files->AddFile(name, limits));
  }
  CONCLAVE_RETURN_IF_ERROR(files->IndexTensors());
  for (const auto& [name, file] : choice.index) {
    const Tensor tensor = files->Find(name);
    if (tensor.file == nullptr || LastComponent(tensor.file->path()) != file) {
      return absl::InvalidArgumentError(absl::StrFormat("%s/%s: tensor \"%s\" is not in %s",
                                                        directory, kWeightMapName, Printable(name),
                                                        Printable(file)));
    }
  }
  return files;
}

absl::Status MappedFiles::AddFile(const std::string& name, const Limits& limits) {
  File file;
  file.name = name;
  CONCLAVE_ASSIGN_OR_RETURN(file.mapped, MappedFile::Open(directory_ + "/" + name));
  const std::string_view bytes(file.mapped->data(), file.mapped->size());
  const std::string& path = file.mapped->path();
  CONCLAVE_ASSIGN_OR_RETURN(const uint64_t length,
                            SafetensorsHeaderBytes(bytes.substr(0, kSafetensorsLengthBytes),
                                                   bytes.size(), path, limits.header));
  CONCLAVE_ASSIGN_OR_RETURN(file.tensors,
                            ParseSafetensorsHeader(bytes.substr(kSafetensorsLengthBytes, length),
                                                   bytes.size(), path, limits.header));
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status MappedFiles::IndexTensors() {
  for (const File& file : files_) {
    for (const TensorEntry& entry : file.tensors) {
      const auto [other, added] = by_name_.emplace(entry.name, tensors_.size());
      if (!added) {
        return absl::InvalidArgumentError(
            absl::StrFormat("tensor \"%s\" is in both %s and %s", Printable(entry.name),
                            tensors_[other->second].file->path(), file.mapped->path()));
      }
      tensors_.push_back({file.mapped.get(), &entry});
    }
  }
  return absl::OkStatus();
}

MappedFiles::Tensor MappedFiles::Find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? Tensor() : tensors_[found->second];
}

void MappedFiles::Bring(const Weight& weight) const {
  Bring(weight.data, weight.bytes());
  Bring(weight.scales, weight.scale_bytes());
}

void MappedFiles::Bring(const void* data, uint64_t bytes) const {
  const auto at = reinterpret_cast<uintptr_t>(data);
  for (const File& file : files_) {
    const auto begin = reinterpret_cast<uintptr_t>(file.mapped->data());
    if (at >= begin && at - begin < file.mapped->size())
      return file.mapped->Bring(at - begin, bytes);
  }
}

absl::StatusOr<std::string> MappedFiles::Digest(std::vector<Tensor> tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const Tensor& a, const Tensor& b) { return a.entry->name < b.entry->name; });
  Sha256 hash;
  for (const Tensor& tensor : tensors) {
    CONCLAVE_RETURN_IF_ERROR(tensor.file->CheckSize());
    hash.AddField(tensor.entry->name);
    hash.AddField(tensor.entry->type);
    hash.AddField(ShapeText(tensor.entry->shape));
    const uint64_t size = tensor.entry->end - tensor.entry->begin;
    const size_t count = static_cast<size_t>(std::min<uint64_t>(size, kSampleBytes));
    char sample[kSampleBytes];
    CONCLAVE_RETURN_IF_ERROR(
        tensor.file->ReadAt(tensor.entry->begin + (size - count) / 2, count, sample));
    hash.AddField({sample, count});
  }
  return hash.Finish();
}

}  // namespace conclave::worker
