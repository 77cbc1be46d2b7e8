#pragma once
// The safetensors files of one directory, mapped, and the tensors in them by name. Immutable after
// Open; any thread.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/device/tensor.h"
#include "worker/model/mapped_file.h"
#include "worker/model/safetensors.h"

namespace conclave::worker {

class MappedFiles {
 public:
  struct Limits {
    size_t files = 1024;
    size_t index_bytes = size_t{64} << 20;
    SafetensorsLimits header;
  };

  // model.safetensors; without it the files that model.safetensors.index.json names; without either
  // every *.safetensors but the consolidated* copies, which are read only where nothing else is.
  // INVALID_ARGUMENT: no or too many files, a file that is none, a tensor in two files, an index
  // that disagrees with them. NOT_FOUND: a file that the index names; with kSkip it is left out,
  // and so are the tensors that were to be in it.
  enum class Absent : uint8_t { kRefuse, kSkip };
  static absl::StatusOr<std::shared_ptr<const MappedFiles>> Open(const std::string& directory,
                                                                 const Limits& limits,
                                                                 Absent absent = Absent::kRefuse);
  static absl::StatusOr<std::shared_ptr<const MappedFiles>> Open(const std::string& directory) {
    return Open(directory, Limits());
  }

  struct Tensor {
    const MappedFile* file = nullptr;
    const TensorEntry* entry = nullptr;
    const char* data() const { return file->data() + entry->begin; }
  };
  // The tensor of this name; file and entry are null if there is none.
  Tensor Find(const std::string& name) const;

  // MappedFile::Bring of what this weight takes; nothing where that is no file's.
  void Bring(const Weight& weight) const;

  // Every tensor, by file and then in the order of bytes.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::string& directory() const { return directory_; }
  // The names of the directory's other safetensors files.
  const std::vector<std::string>& ignored() const { return ignored_; }

  // SHA-256 of these tensors, in whatever files and order: of each its name, type and shape and the
  // 64 bytes in its middle. It tells checkpoints apart, fine-tuned copies included, without reading
  // them; it is no proof that no byte was changed. DATA_LOSS if a file shrank.
  static absl::StatusOr<std::string> Digest(std::vector<Tensor> tensors);

 private:
  struct File {
    std::string name;
    std::unique_ptr<const MappedFile> mapped;
    std::vector<TensorEntry> tensors;
  };

  void Bring(const void* data, uint64_t bytes) const;

  absl::Status AddFile(const std::string& name, const Limits& limits);
  absl::Status IndexTensors();

  std::string directory_;
  std::vector<std::string> ignored_;
  std::vector<File> files_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
};

}  // namespace conclave::worker
