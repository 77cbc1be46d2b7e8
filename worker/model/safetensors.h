#pragma once
// The header of a safetensors file, as untrusted as anything from outside: eight bytes of length, a
// JSON object {name: {"dtype", "shape", "data_offsets"}}, then the data, which the tensors fill
// without gap or overlap. At least as strict as the reference implementation
// (huggingface/safetensors, Metadata::validate). Any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/device/tensor.h"

namespace conclave::worker {

struct TensorEntry {
  std::string name;
  std::string type;            // the format's word: "F32", "BF16", "I64", ...
  std::vector<int64_t> shape;  // empty: one number
  uint64_t begin = 0;          // of its bytes in the file
  uint64_t end = 0;
};

struct SafetensorsLimits {
  uint64_t header_bytes = 100'000'000;  // the reference implementation's
  size_t tensors = size_t{1} << 20;
  size_t name_bytes = 512;
  size_t rank = 8;
  size_t metadata_entries = 1024;
};

// The header's length, from the first bytes of a file of file_bytes. INVALID_ARGUMENT if it cannot
// be true.
inline constexpr uint64_t kSafetensorsLengthBytes = 8;
absl::StatusOr<uint64_t> SafetensorsHeaderBytes(std::string_view first_bytes, uint64_t file_bytes,
                                                const std::string& file,
                                                const SafetensorsLimits& limits = {});

// The tensors, in the order of their bytes. `header` is the JSON text alone; `file` stands in
// messages. INVALID_ARGUMENT, naming file and tensor, what was expected and what is there.
absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(
    std::string_view header, uint64_t file_bytes, const std::string& file,
    const SafetensorsLimits& limits = {});

// The type a kernel can read, or nothing: the format knows more types than we compute with.
std::optional<DType> ComputeType(std::string_view type);
// The other way round.
const char* TypeName(DType type);

// "[4, 32]".
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace conclave::worker
