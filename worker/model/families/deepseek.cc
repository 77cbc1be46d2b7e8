#include "worker/model/families/deepseek.h"

#include <cmath>

#include "absl/strings/str_format.h"

namespace conclave::worker {

void ReadMla(Config& config, bool interleaved, const FamilyOptions& options, ModelSpec& spec) {
  const ModelLimits& limits = options.limits;
  AttentionSpec& attention = spec.attention;
  attention.kind = AttentionSpec::Kind::kMla;
  config.IntOr("num_key_value_heads", attention.heads, {attention.heads, attention.heads});
  attention.q_lora_rank = config.IntOr("q_lora_rank", 0, {1, limits.dim});
  attention.kv_lora_rank = config.Int("kv_lora_rank", {1, limits.dim});
  attention.qk_nope_dim = config.Int("qk_nope_head_dim", {1, limits.head_dim});
  attention.qk_rope_dim = config.Int("qk_rope_head_dim", {2, limits.head_dim});
  attention.value_dim = config.Int("v_head_dim", {1, limits.head_dim});
  attention.bias = config.BoolOr("attention_bias", false);
  // The authors make the two inner norms without passing rms_norm_eps on.
  attention.latent_norm_eps = 1e-6f;
  const RopeSettings rope = ReadRope(config, {.deepseek = true});
  attention.scale = static_cast<float>(
      AttentionScaleFactor(rope) /
      std::sqrt(static_cast<double>(attention.qk_nope_dim + attention.qk_rope_dim)));
  SetRope(config, rope, attention.qk_rope_dim, attention.qk_rope_dim, interleaved, options, spec);
}

void AddMla(const ModelSpec& spec, TensorTable& table) {
  const AttentionSpec& attention = spec.attention;
  const int64_t dim = spec.dim;
  const int64_t q_rows = int64_t{attention.heads} * (attention.qk_nope_dim + attention.qk_rope_dim);
  const int64_t kv_a_rows = attention.kv_lora_rank + attention.qk_rope_dim;
  const int64_t kv_b_rows =
      int64_t{attention.heads} * (attention.qk_nope_dim + attention.value_dim);
  const std::string prefix = "model.layers.{L}.self_attn.";
  if (attention.q_lora_rank > 0) {
    table.Add(prefix + "q_a_proj.weight", {attention.q_lora_rank, dim}, &AttentionWeights::q_a);
    table.Add(prefix + "q_a_layernorm.weight", {attention.q_lora_rank},
              &AttentionWeights::q_a_norm);
    table.Add(prefix + "q_b_proj.weight", {q_rows, attention.q_lora_rank}, &AttentionWeights::q_b);
  } else {
    table.Add(prefix + "q_proj.weight", {q_rows, dim}, &AttentionWeights::q);
  }
  table.Add(prefix + "kv_a_proj_with_mqa.weight", {kv_a_rows, dim}, &AttentionWeights::kv_a);
  table.Add(prefix + "kv_a_layernorm.weight", {attention.kv_lora_rank},
            &AttentionWeights::kv_a_norm);
  table.Add(prefix + "kv_b_proj.weight", {kv_b_rows, attention.kv_lora_rank},
            &AttentionWeights::kv_b);
  table.Add(prefix + "o_proj.weight", {dim, int64_t{attention.heads} * attention.value_dim},
            &AttentionWeights::o);
  if (attention.bias) {
    if (attention.q_lora_rank > 0) {
      table.Add(prefix + "q_a_proj.bias", {attention.q_lora_rank}, &AttentionWeights::q_a_bias);
    }
    table.Add(prefix + "kv_a_proj_with_mqa.bias", {kv_a_rows}, &AttentionWeights::kv_a_bias);
    table.Add(prefix + "o_proj.bias", {dim}, &AttentionWeights::o_bias);
  }
}

void ReadDeepSeekLayers(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  const int32_t dense = config.IntOr("first_k_dense_replace", 0, {0, options.limits.layers});
  const int32_t every = config.IntOr("moe_layer_freq", 1, {1, options.limits.layers});
  bool any_dense = false;
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    spec.layers[l].moe = l >= static_cast<size_t>(dense) && l % static_cast<size_t>(every) == 0;
    any_dense |= !spec.layers[l].moe;
  }
  if (any_dense) spec.dense_ffn_dim = config.Int("intermediate_size", {1, options.limits.dim});
  spec.expert_ffn_dim = config.Int("moe_intermediate_size", {1, options.limits.dim});
  const int32_t shared =
      config.IntOr("n_shared_experts", 0, {0, options.limits.dim / spec.expert_ffn_dim});
  spec.shared_ffn_dim = shared * spec.expert_ffn_dim;
}

void AddDeepSeekLayers(const ModelSpec& spec, TensorTable& table) {
  using In = TensorTable::In;
  table.AddNorms(spec.dim);
  const TensorTable::FfnShape dense = {spec.dense_ffn_dim, spec.dim, spec.ffn_bias};
  table.AddFfn("model.layers.{L}.mlp", dense, &LayerWeights::dense, In::kDenseLayers);
  table.Add("model.layers.{L}.mlp.gate.weight", {spec.gate.slots, spec.dim}, &LayerWeights::gate,
            In::kMoeLayers);
  table.AddExperts("model.layers.{L}.mlp", spec.gate.slots, spec.expert_ffn_dim, spec.dim);
  if (spec.shared_ffn_dim > 0) {
    const TensorTable::FfnShape shared = {spec.shared_ffn_dim, spec.dim, spec.ffn_bias};
    table.AddFfn("model.layers.{L}.mlp.shared_experts", shared, &LayerWeights::shared,
                 In::kMoeLayers);
  }
}

void ReadGroups(Config& config, GateShape::Select select, ModelSpec& spec) {
  GateShape& gate = spec.gate;
  gate.select = select;
  gate.groups = config.Int("n_group", {1, gate.slots});
  gate.top_groups = config.Int("topk_group", {1, gate.groups});
  if (gate.slots % gate.groups != 0) {
    config.Refuse(
        absl::StrFormat("n_group %d does not divide n_routed_experts %d", gate.groups, gate.slots));
  } else if (gate.top_k > gate.slots / gate.groups * gate.top_groups) {
    config.Refuse(absl::StrFormat(
        "num_experts_per_tok is %d, topk_group %d of %d groups have only %d experts", gate.top_k,
        gate.top_groups, gate.groups, gate.slots / gate.groups * gate.top_groups));
  }
}

void ReadSigmoidGate(Config& config, double scale, const FamilyOptions& options, ModelSpec& spec) {
  GateShape& gate = spec.gate;
  ReadSlots(config, "n_routed_experts", options, spec);
  config.RequireOneOf("scoring_func", "sigmoid", {"sigmoid"});
  config.RequireOneOf("topk_method", "noaux_tc", {"noaux_tc"});
  gate.score = GateShape::Score::kSigmoid;
  ReadGroups(config, GateShape::Select::kGroupTop2Sum, spec);
  if (gate.groups == 1) {
    gate.select = GateShape::Select::kTopK;
  } else if (gate.slots / gate.groups < 2) {
    config.Refuse(absl::StrFormat(
        "n_group %d leaves one of n_routed_experts %d in a group, which is ranked by its best two",
        gate.groups, gate.slots));
  }
  gate.normalise = config.BoolOr("norm_topk_prob", true) && gate.top_k > 1;
  gate.scale = static_cast<float>(config.FloatOr("routed_scaling_factor", scale, {1e-6, 1e6}));
}

void AddSelectionBias(const ModelSpec& spec, TensorTable& table) {
  table.AddGateBias("model.layers.{L}.mlp.gate.e_score_correction_bias", spec.gate.slots);
}

}  // namespace conclave::worker
