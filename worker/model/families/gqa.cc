#include "worker/model/families/gqa.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "worker/model/json.h"

namespace conclave::worker {

namespace {

// Whether each layer slides; nothing if the config does not say, or says it wrongly.
std::vector<bool> SlidingLayers(Config& config, size_t layers) {
  const std::vector<std::string> types = config.StringsOr("layer_types", layers);
  if (types.size() != layers) {
    config.Refuse(absl::StrFormat("layer_types has %d entries, num_hidden_layers is %d",
                                  types.size(), layers));
    return {};
  }
  std::vector<bool> sliding;
  for (const std::string& type : types) {
    if (type != "sliding_attention" && type != "full_attention") {
      config.Refuse(absl::StrFormat(
          "layer_types has \"%s\", supported: full_attention, sliding_attention", Printable(type)));
    }
    sliding.push_back(type == "sliding_attention");
  }
  return sliding;
}

}  // namespace

void ReadGqa(Config& config, const RopeDialect& dialect, const FamilyOptions& options,
             ModelSpec& spec) {
  AttentionSpec& attention = spec.attention;
  attention.kind = AttentionSpec::Kind::kGqa;
  attention.kv_heads = config.IntOr("num_key_value_heads", attention.heads, {1, attention.heads});
  if (attention.heads % attention.kv_heads != 0) {
    config.Refuse(absl::StrFormat("num_key_value_heads %d does not divide num_attention_heads %d",
                                  attention.kv_heads, attention.heads));
  }
  if (config.Has("head_dim")) {
    attention.head_dim = config.Int("head_dim", {1, options.limits.head_dim});
  } else if (spec.dim % attention.heads == 0) {
    attention.head_dim = spec.dim / attention.heads;
  } else {
    config.Refuse(absl::StrFormat("num_attention_heads %d does not divide hidden_size %d",
                                  attention.heads, spec.dim));
    attention.head_dim = 1;
  }
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(attention.head_dim)));
  const RopeSettings rope = ReadRope(config, dialect);
  SetRope(config, rope, static_cast<int32_t>(attention.head_dim * rope.partial), attention.head_dim,
          /*interleaved=*/false, options, spec);
}

void AddGqa(const ModelSpec& spec, TensorTable& table) {
  const AttentionSpec& attention = spec.attention;
  const int64_t dim = spec.dim;
  const int64_t q_rows = int64_t{attention.heads} * attention.head_dim;
  const int64_t kv_rows = int64_t{attention.kv_heads} * attention.head_dim;
  const std::string prefix = "model.layers.{L}.self_attn.";

  table.Add(prefix + "q_proj.weight", {q_rows, dim}, &AttentionWeights::q);
  table.Add(prefix + "k_proj.weight", {kv_rows, dim}, &AttentionWeights::k);
  table.Add(prefix + "v_proj.weight", {kv_rows, dim}, &AttentionWeights::v);
  table.Add(prefix + "o_proj.weight", {dim, q_rows}, &AttentionWeights::o);
  if (attention.bias) {
    table.Add(prefix + "q_proj.bias", {q_rows}, &AttentionWeights::q_bias);
    table.Add(prefix + "k_proj.bias", {kv_rows}, &AttentionWeights::k_bias);
    table.Add(prefix + "v_proj.bias", {kv_rows}, &AttentionWeights::v_bias);
  }
  if (attention.output_bias) table.Add(prefix + "o_proj.bias", {dim}, &AttentionWeights::o_bias);
  if (attention.qk_norm == AttentionSpec::QkNorm::kNone) return;
  const bool of_heads = attention.qk_norm == AttentionSpec::QkNorm::kHeads;
  table.Add(prefix + "q_norm.weight", {of_heads ? attention.head_dim : q_rows},
            &AttentionWeights::q_norm);
  table.Add(prefix + "k_norm.weight", {of_heads ? attention.head_dim : kv_rows},
            &AttentionWeights::k_norm);
}

bool ReadLayerTypes(Config& config, int32_t window, ModelSpec& spec) {
  if (!config.Has("layer_types")) return false;
  const std::vector<bool> sliding = SlidingLayers(config, spec.layers.size());
  for (size_t l = 0; l < sliding.size(); ++l) {
    if (!sliding[l]) continue;
    spec.layers[l].window = window;
    if (window == 0) config.Refuse("layer_types has sliding_attention without a sliding_window");
  }
  return true;
}

void CheckLayerTypes(Config& config, const ModelSpec& spec) {
  if (!config.Has("layer_types")) return;
  const std::vector<bool> sliding = SlidingLayers(config, spec.layers.size());
  for (size_t l = 0; l < sliding.size(); ++l) {
    const int32_t window = spec.layers[l].window;
    if (sliding[l] && window == 0) {
      config.Refuse("layer_types has sliding_attention without a sliding_window");
    } else if (!sliding[l] && window > 0) {
      config.Refuse(absl::StrFormat(
          "layer_types has full_attention for layer %d, which has a window of %d", l, window));
    }
  }
}

void ReadSparseLayers(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  const ModelLimits& limits = options.limits;
  const int32_t every = config.IntOr("decoder_sparse_step", 1, {1, limits.layers});
  const std::vector<int32_t> dense =
      config.IntsOr("mlp_only_layers", {0, limits.layers - 1}, static_cast<size_t>(limits.layers));
  bool any_dense = false;
  for (int32_t l = 0; l < static_cast<int32_t>(spec.layers.size()); ++l) {
    const bool moe =
        (l + 1) % every == 0 && std::find(dense.begin(), dense.end(), l) == dense.end();
    spec.layers[static_cast<size_t>(l)].moe = moe;
    any_dense |= !moe;
  }
  if (any_dense) spec.dense_ffn_dim = config.Int("intermediate_size", {1, limits.dim});
  spec.expert_ffn_dim = config.Int("moe_intermediate_size", {1, limits.dim});
}

}  // namespace conclave::worker
