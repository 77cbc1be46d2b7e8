// Mixtral (arXiv:2401.04088): grouped-query attention, in some models through a sliding window;
// every layer has experts, whose weights are the softmax over the chosen ones.

#include "worker/model/families/gqa.h"

namespace conclave::worker {
namespace {

// transformers 5 has other names in memory than its authors have on disk, and can write both.
void AddMoe(const ModelSpec& spec, TensorTable& table) {
  const std::string published = "model.layers.{L}.block_sparse_moe";
  const std::string renamed = "model.layers.{L}.mlp";
  TensorTable separate, fused;
  separate.Add(published + ".gate.weight", {spec.gate.slots, spec.dim}, &LayerWeights::gate);
  separate.AddSeparateExperts(published, {spec.expert_ffn_dim, spec.dim},
                              {.gate = "w1", .up = "w3", .down = "w2"});
  fused.Add(renamed + ".gate.weight", {spec.gate.slots, spec.dim}, &LayerWeights::gate);
  fused.AddFusedExperts(renamed, spec.gate.slots, spec.expert_ffn_dim, spec.dim);
  table.AddOneOf({std::move(separate), std::move(fused)});
}

}  // namespace

Family MakeMixtral(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  config.RequireFalse("attention_bias");
  ReadSlots(config, "num_local_experts", options, spec);
  spec.expert_ffn_dim = config.Int("intermediate_size", {1, options.limits.dim});
  spec.gate.normalise = true;
  const int32_t window = config.IntOr("sliding_window", 0, {1, options.limits.context});
  for (LayerSpec& layer : spec.layers) layer = {.moe = true, .window = window};
  CheckLayerTypes(config, spec);
  ReadGqa(config, {.theta = 1e6}, options, spec);

  family.tensors.AddNorms(spec.dim);
  AddGqa(spec, family.tensors);
  AddMoe(spec, family.tensors);
  return family;
}

}  // namespace conclave::worker
