// Qwen2-MoE (arXiv:2407.10671, Qwen1.5-MoE too): grouped-query attention with biases; experts in
// some layers, beside a shared one whose result passes a gate of its own.

#include "worker/model/families/gqa.h"

namespace conclave::worker {
namespace {

// Which layers look through the window. transformers 5 writes it down as layer_types. Without them
// its releases have read max_window_layers in three ways; no published model depends on it, and
// this is the last one.
void ReadWindows(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  const bool sliding = config.BoolOr("use_sliding_window", false);
  const int32_t window = sliding ? config.Int("sliding_window", {1, options.limits.context}) : 0;
  if (ReadLayerTypes(config, window, spec) || !sliding) return;
  const auto below =
      static_cast<size_t>(config.IntOr("max_window_layers", 28, {0, options.limits.layers}));
  for (size_t l = 0; l < spec.layers.size() && l < below; l += 2) spec.layers[l].window = window;
}

void AddMoe(const ModelSpec& spec, TensorTable& table) {
  using In = TensorTable::In;
  const std::string mlp = "model.layers.{L}.mlp";
  table.AddFfn(mlp, {spec.dense_ffn_dim, spec.dim}, &LayerWeights::dense, In::kDenseLayers);
  table.Add(mlp + ".gate.weight", {spec.gate.slots, spec.dim}, &LayerWeights::gate, In::kMoeLayers);
  table.AddExperts(mlp, spec.gate.slots, spec.expert_ffn_dim, spec.dim);
  if (spec.shared_ffn_dim > 0) {
    table.AddFfn(mlp + ".shared_expert", {spec.shared_ffn_dim, spec.dim}, &LayerWeights::shared,
                 In::kMoeLayers);
  }
  table.Add(mlp + ".shared_expert_gate.weight", {1, spec.dim}, &LayerWeights::shared_gate,
            In::kMoeLayers);
}

}  // namespace

Family MakeQwen2Moe(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  config.RequireFalse("attention_bias");  // its word for them is qkv_bias
  ReadSlots(config, "num_experts", options, spec);
  ReadSparseLayers(config, options, spec);
  spec.shared_ffn_dim = config.Int("shared_expert_intermediate_size", {0, options.limits.dim});
  spec.gate.normalise = config.BoolOr("norm_topk_prob", false);
  ReadWindows(config, options, spec);
  ReadGqa(config, {}, options, spec);
  spec.attention.bias = config.BoolOr("qkv_bias", true);

  family.tensors.AddNorms(spec.dim);
  AddGqa(spec, family.tensors);
  AddMoe(spec, family.tensors);
  return family;
}

}  // namespace conclave::worker
