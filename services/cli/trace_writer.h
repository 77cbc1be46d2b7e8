#pragma once
// Writes a trace directory: per named mix NAME.experts.npy (uint8 up to 256 experts, else uint16;
// [tokens, layers, k]), NAME.weights.npy (float16, same shape) and NAME.lengths.npy (int32, tokens
// per sequence), and trace.json. Routing goes to disk as it comes, into a directory beside the one
// that is meant; the last step renames it, and until then nothing is there. Memory does not grow
// with a trace. One thread.

#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"

namespace conclave::services::cli {

// A .npy file (NumPy's format 1.0) of rows, little-endian, whose number is known at the end.
class NpyFile {
 public:
  // `type` in NumPy's words, "|u1" say; a row has `row_shape` elements. UNAVAILABLE.
  static absl::StatusOr<NpyFile> Create(const std::string& path, const std::string& type,
                                        const std::vector<size_t>& row_shape);

  void Append(const std::string& bytes) { file_ << bytes; }
  // UNAVAILABLE if anything could not be written.
  absl::Status Finish(size_t rows);

 private:
  NpyFile(const std::string& path, const std::string& type, const std::vector<size_t>& row_shape);
  std::string Header(size_t rows) const;

  std::string path_;
  std::string type_;
  std::vector<size_t> row_shape_;
  std::ofstream file_;
};

class TraceWriter {
 public:
  // INVALID_ARGUMENT: a name that is no plain file name, or comes twice.
  static absl::Status CheckMixNames(const std::vector<std::string>& names);

  // ALREADY_EXISTS if there is a file or a directory with something in it. What was written goes
  // with the writer, unless it has finished.
  static absl::StatusOr<TraceWriter> Create(const std::string& directory);

  // Mixes come one after the other, and so do the sequences of one. INVALID_ARGUMENT as above.
  absl::Status BeginMix(const std::string& name, const std::string& adapter);
  // Routing of the next tokens of the running sequence. DATA_LOSS if it contradicts itself or what
  // came before.
  absl::Status Add(const v1::Routing& routing);
  // DATA_LOSS unless routing of exactly `tokens` tokens was added.
  absl::Status EndSequence(size_t tokens);
  absl::Status EndMix();
  // Makes it the trace. FAILED_PRECONDITION if no token was ever recorded; UNAVAILABLE.
  absl::Status Finish();

  TraceWriter(TraceWriter&&) noexcept;
  ~TraceWriter();

  size_t tokens() const { return tokens_; }  // of the running mix

 private:
  struct Shape {
    uint32_t layers = 0, top_k = 0, experts = 0;
    std::vector<uint32_t> layer_indices;
    bool operator==(const Shape&) const = default;
  };

  // The directory that is written to: gone with this, unless it was renamed.
  class Draft;

  explicit TraceWriter(std::unique_ptr<Draft> draft);
  absl::Status CheckRouting(const v1::Routing& routing, size_t* tokens) const;
  absl::Status OpenFiles();

  std::unique_ptr<Draft> draft_;
  Shape shape_;                               // of all mixes; layers 0: not yet known
  std::map<std::string, std::string> mixes_;  // to their adapters
  std::string name_;                          // of the running mix
  std::unique_ptr<NpyFile> experts_, weights_;
  std::vector<int32_t> lengths_;
  size_t tokens_ = 0;
  size_t sequence_tokens_ = 0;
};

}  // namespace conclave::services::cli
