#pragma once
// The tensors of an adapter's directory: those of every safetensors file in it, by name. Whether
// all names begin with `model.`, as a model's state has them, or none does, as ESFT was released,
// they are found under the names of the base. Immutable after Open; any thread.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/directory.h"
#include "worker/model/safetensors.h"

namespace conclave::worker {

class AdapterTensors {
 public:
  struct Limits {
    size_t directory_entries = 4096;
    size_t files = 64;
    size_t index_bytes = size_t{64} << 20;
    SafetensorsLimits header;
  };

  struct Tensor {
    std::shared_ptr<const DirectoryFile> file;
    const TensorEntry* entry = nullptr;  // null: there is none
  };

  // Reads the headers. INVALID_ARGUMENT, naming file and tensor: no or too many files, a file that
  // is none, a name in two files or without its place in a model, or with `model.` beside one
  // without; a model.safetensors.index.json that says otherwise. Of Directory::OpenFile the rest.
  static absl::StatusOr<std::unique_ptr<const AdapterTensors>> Open(const Directory& directory,
                                                                    const Limits& limits);

  // `name` begins with `model.`.
  Tensor Find(const std::string& name) const;
  // The same name as these files would have it.
  std::string NameHere(const std::string& name) const;
  const std::vector<Tensor>& all() const { return all_; }
  // The files that were read, the index among them.
  const std::vector<std::shared_ptr<const DirectoryFile>>& files() const { return files_; }
  // DATA_LOSS if one was written to since.
  absl::Status CheckUnchanged() const;

 private:
  struct File {
    std::shared_ptr<const DirectoryFile> file;
    std::vector<TensorEntry> tensors;
  };

  absl::Status AddFile(std::shared_ptr<const DirectoryFile> file, const Limits& limits);
  absl::Status CheckPrefixes();
  absl::Status CheckIndex(const DirectoryFile& index, const Limits& limits) const;

  std::vector<std::shared_ptr<const DirectoryFile>> files_;
  std::vector<std::unique_ptr<const File>> contents_;
  std::vector<Tensor> all_;
  std::unordered_map<std::string_view, size_t> by_name_;  // as the files have it
  bool bare_ = false;                                     // without `model.`
};

}  // namespace conclave::worker
