// Qwen3-MoE (arXiv:2505.09388): grouped-query attention whose queries and keys are normed head by
// head; experts in some layers, none of them shared.

#include "worker/model/families/gqa.h"

namespace conclave::worker {
namespace {

// The authors' layers below max_window_layers see everything, those above look through the window;
// a config.json of transformers 5 leaves the number out, and all of them do.
void ReadWindows(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  const bool sliding = config.BoolOr("use_sliding_window", false);
  // null is no window, and no word of it is transformers' default.
  const int32_t otherwise = config.Mentions("sliding_window") ? 0 : 4096;
  const int32_t window =
      sliding ? config.IntOr("sliding_window", otherwise, {1, options.limits.context}) : 0;
  const auto first =
      static_cast<size_t>(config.IntOr("max_window_layers", 0, {0, options.limits.layers}));
  for (size_t l = first; l < spec.layers.size(); ++l) spec.layers[l].window = window;
  CheckLayerTypes(config, spec);
}

void AddMoe(const ModelSpec& spec, TensorTable& table) {
  using In = TensorTable::In;
  const std::string mlp = "model.layers.{L}.mlp";
  table.AddFfn(mlp, {spec.dense_ffn_dim, spec.dim}, &LayerWeights::dense, In::kDenseLayers);
  table.Add(mlp + ".gate.weight", {spec.gate.slots, spec.dim}, &LayerWeights::gate, In::kMoeLayers);
  table.AddExperts(mlp, spec.gate.slots, spec.expert_ffn_dim, spec.dim);
}

}  // namespace

Family MakeQwen3Moe(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  // The authors' word, and the one transformers 5 writes.
  ReadSlots(config, config.Has("num_local_experts") ? "num_local_experts" : "num_experts", options,
            spec);
  config.IntOr("num_experts", spec.gate.slots, {spec.gate.slots, spec.gate.slots});
  ReadSparseLayers(config, options, spec);
  spec.gate.normalise = config.BoolOr("norm_topk_prob", false);
  ReadWindows(config, options, spec);
  ReadGqa(config, {}, options, spec);
  spec.attention.qk_norm = AttentionSpec::QkNorm::kHeads;
  spec.attention.bias = config.BoolOr("attention_bias", false);
  spec.attention.output_bias = spec.attention.bias;

  family.tensors.AddNorms(spec.dim);
  AddGqa(spec, family.tensors);
  AddMoe(spec, family.tensors);
  return family;
}

}  // namespace conclave::worker
