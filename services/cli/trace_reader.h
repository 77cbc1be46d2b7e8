#pragma once
// Reads one mix of a trace directory (trace_writer.h says what is in it), as untrusted as anything
// from outside, some thousand tokens at a time. One thread.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/npy_reader.h"

namespace conclave::services::cli {

class TraceReader {
 public:
  struct Limits {
    size_t json_bytes = size_t{1} << 20;
    uint32_t layers = 4096;
    uint32_t experts = 65536;
    uint32_t top_k = 1024;
    uint64_t block_bytes = uint64_t{4} << 20;  // of slots, read at once
    NpyLimits npy;
  };

  // `path` is DIR/MIX, or DIR of a trace of one mix. INVALID_ARGUMENT or NOT_FOUND, naming file and
  // what is wrong in it: no trace, no such mix, or files that contradict each other.
  static absl::StatusOr<TraceReader> Open(const std::string& path, const Limits& limits);
  static absl::StatusOr<TraceReader> Open(const std::string& path) { return Open(path, Limits()); }

  const std::string& mix() const { return mix_; }
  uint32_t experts() const { return experts_; }  // of a layer
  uint32_t top_k() const { return top_k_; }
  const std::vector<int32_t>& layers() const { return layers_; }  // their numbers, ascending
  uint64_t tokens() const { return slots_->rows(); }
  uint64_t sequences() const { return lengths_->rows(); }

  // Routing of some tokens that follow each other: [tokens, layers, top_k].
  struct Block {
    uint64_t tokens = 0;
    std::vector<uint16_t> slots;
    std::vector<float> weights;  // the gate's
  };
  // The next ones; of no tokens after the last. INVALID_ARGUMENT, naming file and token: a slot
  // that the layer lacks, a weight that is not finite or below zero; DATA_LOSS.
  absl::StatusOr<Block> Next();

 private:
  TraceReader() = default;
  absl::Status ReadJson(const worker::Directory& directory, const std::string& mix,
                        const Limits& limits);
  absl::Status OpenFiles(const worker::Directory& directory, const Limits& limits);
  absl::Status CheckLengths() const;

  std::string mix_;
  uint32_t experts_ = 0;
  uint32_t top_k_ = 0;
  std::vector<int32_t> layers_;
  std::unique_ptr<const NpyReader> slots_, weights_, lengths_;
  uint64_t block_tokens_ = 0;
  uint64_t next_ = 0;  // token
};

}  // namespace conclave::services::cli
