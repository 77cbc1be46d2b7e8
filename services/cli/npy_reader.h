#pragma once
// A .npy file (NumPy's formats 1.0 to 3.0, C order) as untrusted as anything from outside: read by
// rows, never whole. One thread.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/directory.h"

namespace conclave::services::cli {

struct NpyHeader {
  std::string type;             // in NumPy's words, "|u1" say
  std::vector<uint64_t> shape;  // rows first
};

struct NpyLimits {
  size_t header_bytes = 4096;
  size_t rank = 8;
};

// Of the dictionary, which is the header without its magic bytes and length. `name` stands in
// messages. INVALID_ARGUMENT: anything but the three keys of the format, once each; Fortran order;
// too many dimensions.
absl::StatusOr<NpyHeader> ParseNpyHeader(std::string_view text, const std::string& name,
                                         const NpyLimits& limits = {});

class NpyReader {
 public:
  // `types` are those it may have. INVALID_ARGUMENT: no .npy file, another type, no dimension, or
  // not as long as its shape says; of Directory::OpenFile the rest.
  static absl::StatusOr<NpyReader> Open(const worker::Directory& directory, const std::string& name,
                                        const std::vector<std::string>& types,
                                        const NpyLimits& limits = {});

  const std::string& path() const { return file_->path(); }
  const std::string& type() const { return header_.type; }
  uint64_t rows() const { return header_.shape[0]; }
  // Of a row.
  std::vector<uint64_t> row_shape() const {
    return {header_.shape.begin() + 1, header_.shape.end()};
  }
  uint64_t row_bytes() const { return row_bytes_; }

  // The bytes of rows [first, first + count), which there are. DATA_LOSS if the file has become
  // shorter.
  absl::StatusOr<std::string> Read(uint64_t first, uint64_t count) const;

 private:
  NpyReader(std::shared_ptr<const worker::DirectoryFile> file, NpyHeader header, uint64_t begin)
      : file_(std::move(file)), header_(std::move(header)), begin_(begin) {}
  absl::Status CheckSize();

  std::shared_ptr<const worker::DirectoryFile> file_;
  NpyHeader header_;
  uint64_t begin_;  // of the data
  uint64_t row_bytes_ = 0;
};

}  // namespace conclave::services::cli
