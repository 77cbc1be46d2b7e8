#pragma once
// Families of models: config.json's model_type → a function that turns settings into a spec and a
// table of tensors. To add one: a file in families/ with that function, and its declaration and
// line in families.cc.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/config.h"
#include "worker/model/quantization.h"
#include "worker/model/rope.h"
#include "worker/model/spec.h"
#include "worker/model/tensor_table.h"

namespace conclave::worker {

struct Family {
  ModelSpec spec;  // without name, type, eos and sampling defaults: those are no family's subject
  TensorTable tensors;
  Quantization quantization;
};

struct FamilyOptions {
  ModelLimits limits;
  int32_t context_limit = 0;  // above 0: lowers the checkpoint's own
};

// INVALID_ARGUMENT for an unknown model_type and for settings that are wrong, out of range or not
// supported: whatever is set and would change the result is either computed or refused by name.
absl::StatusOr<Family> MakeFamily(Config& config, const FamilyOptions& options);

// For family files: what all of them read the same way.

// Sizes, norm_eps, tied embeddings and the gate's top_k; refuses activations other than silu, and
// mlp_bias unless the family knows it. Leaves to the family what only some have: sliding_window,
// rope, head sizes.
ModelSpec ReadCommonSpec(Config& config, const FamilyOptions& options, bool may_have_bias = false);
// Sets spec.gate.slots from `key`, and holds top_k against it.
void ReadSlots(Config& config, const std::string& key, const FamilyOptions& options,
               ModelSpec& spec);
// Leaves out the layers for the prediction of further tokens (MTP) that num_nextn_predict_layers
// announces (one unless it says) behind the model's own: they are in the checkpoint and take no
// part in a step.
void IgnoreNextTokenLayers(Config& config, const FamilyOptions& options, Family& family);
// Sets spec.rope, of `dim` columns of the `width` that could turn, within the limit on its bytes;
// and spec.context_limit to what the settings stretch max_position_embeddings to, or options lower
// it to. An odd dim needs a column more, and is refused with YaRN, whose ramp has no place for it.
void SetRope(Config& config, const RopeSettings& settings, int32_t dim, int32_t width,
             bool interleaved, const FamilyOptions& options, ModelSpec& spec);

}  // namespace conclave::worker
