#pragma once
// Binds a family's tensors to the members of a model, in place: nothing is copied, no page of a
// tensor is touched (but for a gate's bias, which is small). What the numbers are is therefore not
// looked at here; a NaN in them shows as a sequence that fails, never as a token.

#include "absl/status/status.h"
#include "worker/model/mapped_files.h"
#include "worker/model/model.h"
#include "worker/model/tensor_table.h"

namespace conclave::worker {

// Fills weights and spec.type of `model`, whose spec is the family's. Every tensor of the table
// must be there with exactly its shape and the model's type (norms, gates and biases may be F32),
// and every tensor of the files must be in the table. INVALID_ARGUMENT, naming file and tensor,
// expected and found.
absl::Status BindWeights(const MappedFiles& files, const TensorTable& table, Model& model);

}  // namespace conclave::worker
