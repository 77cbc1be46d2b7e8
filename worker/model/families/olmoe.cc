// OLMoE (arXiv:2409.02060): grouped-query attention whose queries and keys are normed before heads
// are split, then clipped; every layer has experts, chosen by a softmax.

#include <cmath>

#include "absl/strings/str_format.h"
#include "worker/model/families.h"

namespace conclave::worker {
namespace {

void ReadAttention(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  AttentionSpec& attention = spec.attention;
  attention.kind = AttentionSpec::Kind::kGqa;
  attention.kv_heads = config.IntOr("num_key_value_heads", attention.heads, {1, attention.heads});
  if (attention.heads % attention.kv_heads != 0 || spec.dim % attention.heads != 0) {
    config.Refuse(absl::StrFormat(
        "hidden_size %d, num_attention_heads %d and num_key_value_heads %d do not divide", spec.dim,
        attention.heads, attention.kv_heads));
  }
  attention.head_dim = spec.dim / attention.heads;
  config.IntOr("head_dim", attention.head_dim, {attention.head_dim, attention.head_dim});
  attention.qk_norm = true;
  // The norms leave a scale of one; a limit so small that it clips everything is a mistake.
  attention.clip_qkv = static_cast<float>(config.FloatOr("clip_qkv", 0.0, {1e-6, 1e9}));
  attention.bias = config.BoolOr("attention_bias", false);
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(attention.head_dim)));
  SetRope(config, ReadRope(config, {}), attention.head_dim,
          /*interleaved=*/false, options, spec);
}

TensorTable Tensors(const ModelSpec& spec) {
  const AttentionSpec& attention = spec.attention;
  const int64_t dim = spec.dim;
  const int64_t q_rows = int64_t{attention.heads} * attention.head_dim;
  const int64_t kv_rows = int64_t{attention.kv_heads} * attention.head_dim;
  const std::string prefix = "model.layers.{L}.self_attn.";

  TensorTable table;
  table.AddNorms(dim);
  table.Add(prefix + "q_proj.weight", {q_rows, dim}, &AttentionWeights::q);
  table.Add(prefix + "k_proj.weight", {kv_rows, dim}, &AttentionWeights::k);
  table.Add(prefix + "v_proj.weight", {kv_rows, dim}, &AttentionWeights::v);
  table.Add(prefix + "o_proj.weight", {dim, q_rows}, &AttentionWeights::o);
  table.Add(prefix + "q_norm.weight", {q_rows}, &AttentionWeights::q_norm);
  table.Add(prefix + "k_norm.weight", {kv_rows}, &AttentionWeights::k_norm);
  if (attention.bias) {
    table.Add(prefix + "q_proj.bias", {q_rows}, &AttentionWeights::q_bias);
    table.Add(prefix + "k_proj.bias", {kv_rows}, &AttentionWeights::k_bias);
    table.Add(prefix + "v_proj.bias", {kv_rows}, &AttentionWeights::v_bias);
    table.Add(prefix + "o_proj.bias", {dim}, &AttentionWeights::o_bias);
  }
  table.Add("model.layers.{L}.mlp.gate.weight", {spec.gate.slots, dim}, &LayerWeights::gate);
  table.AddExperts("model.layers.{L}.mlp", spec.gate.slots, spec.expert_ffn_dim, dim);
  return table;
}

}  // namespace

Family MakeOlmoe(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  config.RequireAbsent("sliding_window");
  ReadSlots(config, "num_experts", options, spec);
  spec.expert_ffn_dim = config.Int("intermediate_size", {1, options.limits.dim});
  spec.gate.normalise = config.BoolOr("norm_topk_prob", false);
  for (LayerSpec& layer : spec.layers) layer.moe = true;
  ReadAttention(config, options, spec);
  family.tensors = Tensors(spec);
  return family;
}

}  // namespace conclave::worker
