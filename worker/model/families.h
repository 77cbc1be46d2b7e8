#pragma once
// Families of models: config.json's model_type → a function that turns settings into a spec and a
// table of tensors. To add one: a file in families/ with that function, and its declaration and
// line in families.cc.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/config.h"
#include "worker/model/model.h"
#include "worker/model/rope.h"
#include "worker/model/spec.h"

namespace conclave::worker {

// The tensors of a layer, as a checkpoint names them: {L} stands for the layer, {E} for the slot of
// an expert.
class TensorTable {
 public:
  enum class In : uint8_t { kEveryLayer, kDenseLayers, kMoeLayers };

  struct Rule {
    std::string name;
    std::vector<int64_t> shape;  // [rows, cols] or [cols]
    In in = In::kEveryLayer;
    std::function<Weight&(LayerWeights&, size_t slot)> member;
  };

  void Add(const std::string& name, std::vector<int64_t> shape, Weight LayerWeights::*member,
           In in = In::kEveryLayer);
  void Add(const std::string& name, std::vector<int64_t> shape, Weight AttentionWeights::*member);
  // {prefix}.gate_proj.weight, up_proj and down_proj.
  void AddFfn(const std::string& prefix, int64_t ffn_dim, int64_t dim,
              FfnWeights LayerWeights::*member, In in);
  // The same of every expert; `prefix` has {E}.
  void AddExperts(const std::string& prefix, int64_t ffn_dim, int64_t dim);
  // input_layernorm and post_attention_layernorm.
  void AddNorms(int64_t dim);

  const std::vector<Rule>& rules() const { return rules_; }

 private:
  using FfnOf = std::function<FfnWeights&(LayerWeights&, size_t slot)>;
  void AddFfn(const std::string& prefix, int64_t ffn_dim, int64_t dim, const FfnOf& ffn, In in);

  std::vector<Rule> rules_;
};

struct Family {
  ModelSpec spec;  // without name, type, eos and sampling defaults: those are no family's subject
  TensorTable tensors;
};

struct FamilyOptions {
  ModelLimits limits;
  int32_t context_limit = 0;  // above 0: lowers the checkpoint's own
};

// INVALID_ARGUMENT for an unknown model_type and for settings that are wrong, out of range or not
// supported: whatever is set and would change the result is either computed or refused by name.
absl::StatusOr<Family> MakeFamily(Config& config, const FamilyOptions& options);

// For family files: what all of them read the same way.

// Sizes, norm_eps, tied embeddings and the gate's top_k; refuses quantised weights and activations
// other than silu. Leaves to the family what only some have: sliding_window, rope, head sizes.
ModelSpec ReadCommonSpec(Config& config, const FamilyOptions& options);
// Sets spec.gate.slots from `key`, and holds top_k against it.
void ReadSlots(Config& config, const std::string& key, const FamilyOptions& options,
               ModelSpec& spec);
// Sets spec.rope, of `dim` columns, within the limit on its bytes.
void SetRope(Config& config, const RopeSettings& settings, int32_t dim, bool interleaved,
             const FamilyOptions& options, ModelSpec& spec);

}  // namespace conclave::worker
