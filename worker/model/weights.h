#pragma once
// Binds a family's tensors to the members of a model, in place wherever kernels can read them so:
// then nothing is copied and no page of a tensor is touched (but for a gate's bias, which is
// small). What those numbers are is not looked at; a NaN in them shows as a sequence that fails,
// never as a token. Transposed layouts and FP8 are converted (converted_weights.h).

#include <optional>
#include <unordered_set>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/converted_weights.h"
#include "worker/model/mapped_files.h"
#include "worker/model/model.h"
#include "worker/model/quantization.h"
#include "worker/model/tensor_table.h"

namespace conclave::worker {

struct BindOptions {
  Quantization quantization;
  int64_t converted_bytes = 0;      // for conversions
  std::optional<DType> experts_as;  // their matrices, and those of shared ones: packed like this
  std::optional<DType> dense_as;    // likewise the others, where sizes allow it
  // A layer may lack tensors of its experts: it then has none, as those that are there could not be
  // told from another checkpoint's.
  bool experts_may_be_absent = false;
};

// What was bound of the files: what tells them from another checkpoint.
struct BoundTensors {
  std::vector<MappedFiles::Tensor> dense;
  std::unordered_set<const TensorEntry*> converted;       // of them, those that a copy is used of
  std::vector<std::vector<MappedFiles::Tensor>> experts;  // of each MoE layer; empty: absent
};

// Fills weights, `converted`, `absent` and spec.type of `model`, whose spec is the family's. Every
// tensor of the table must be there with exactly its shape and the model's type (norms, gates and
// biases may be F32; with `quantization` matrices F8_E4M3, their factors beside them, or
// those of experts packed), and every tensor of
// the files must be in the table. INVALID_ARGUMENT, naming file and tensor, expected and found;
// RESOURCE_EXHAUSTED if conversions need more than converted_bytes.
absl::StatusOr<BoundTensors> BindWeights(const MappedFiles& files, const TensorTable& table,
                                         const BindOptions& options, Model& model);

}  // namespace conclave::worker
