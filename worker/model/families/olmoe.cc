// OLMoE (arXiv:2409.02060): grouped-query attention whose queries and keys are normed before heads
// are split, then clipped; every layer has experts, chosen by a softmax.

#include "worker/model/families/gqa.h"

namespace conclave::worker {
namespace {

void ReadAttention(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  AttentionSpec& attention = spec.attention;
  ReadGqa(config, {}, options, spec);
  // The norms are as wide as the residual stream, so the heads together are, too.
  const int32_t head_dim = spec.dim / attention.heads;
  config.IntOr("head_dim", head_dim, {head_dim, head_dim});
  attention.qk_norm = AttentionSpec::QkNorm::kWhole;
  // The norms leave a scale of one; a limit so small that it clips everything is a mistake.
  attention.clip_qkv = static_cast<float>(config.FloatOr("clip_qkv", 0.0, {1e-6, 1e9}));
  attention.bias = config.BoolOr("attention_bias", false);
  attention.output_bias = attention.bias;
}

}  // namespace

Family MakeOlmoe(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  config.RequireAbsent("sliding_window");
  CheckLayerTypes(config, spec);
  ReadSlots(config, "num_experts", options, spec);
  spec.expert_ffn_dim = config.Int("intermediate_size", {1, options.limits.dim});
  spec.gate.normalise = config.BoolOr("norm_topk_prob", false);
  for (LayerSpec& layer : spec.layers) layer.moe = true;
  ReadAttention(config, options, spec);

  TensorTable& table = family.tensors;
  table.AddNorms(spec.dim);
  AddGqa(spec, table);
  table.Add("model.layers.{L}.mlp.gate.weight", {spec.gate.slots, spec.dim}, &LayerWeights::gate);
  table.AddExperts("model.layers.{L}.mlp", spec.gate.slots, spec.expert_ffn_dim, spec.dim);
  return family;
}

}  // namespace conclave::worker
