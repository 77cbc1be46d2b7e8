// gpt-oss (arXiv:2508.10925): grouped-query attention with sinks, every other layer in a sliding
// window; every layer has experts, with biases and a clamped activation, whose weights stand as
// [inputs, outputs], gate and up column by column. BF16 and wider only: MXFP4 is refused.

#include <algorithm>
#include <cmath>

#include "worker/model/families/gqa.h"
#include "worker/model/widen.h"

namespace conclave::worker {
namespace {

void ReadAttention(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  // transformers has defaults of its own for these, which are no other family's.
  config.Int("head_dim", {1, options.limits.head_dim});
  config.Int("num_key_value_heads", {1, options.limits.heads});
  if (!config.Has("rope_scaling") && !config.Has("rope_parameters"))
    config.Refuse("rope_scaling is missing");
  ReadGqa(config, {.theta = 150000.0}, options, spec);
  spec.attention.bias = config.BoolOr("attention_bias", true);
  spec.attention.output_bias = spec.attention.bias;
  const int32_t window = config.IntOr("sliding_window", 0, {1, options.limits.context});
  if (ReadLayerTypes(config, window, spec)) return;
  if (window == 0) config.Refuse("sliding_window is missing");
  for (size_t l = 0; l < spec.layers.size(); l += 2) spec.layers[l].window = window;
}

void ReadExperts(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  ReadSlots(config, "num_local_experts", options, spec);
  const int32_t top_k = spec.gate.top_k;
  config.IntOr("experts_per_token", top_k, {top_k, top_k});  // the same, in the authors' own word
  spec.gate.score = GateShape::Score::kLogit;
  spec.expert_ffn_dim = config.Int("intermediate_size", {1, options.limits.dim});
  spec.expert_bias = true;
  spec.activation = {
      .kind = FfnActivation::Kind::kClampedSwish,
      .alpha = static_cast<float>(config.FloatOr("swiglu_alpha", 1.702, {1e-3, 1e3})),
      .limit = static_cast<float>(config.FloatOr("swiglu_limit", 7.0, {1e-3, 1e6}))};
  for (LayerSpec& layer : spec.layers) layer.moe = true;
}

absl::Status BindSinks(LayerWeights& layer, size_t, const Weight& whole) {
  std::vector<float>& sinks = layer.attention.sinks;
  sinks = Widen(whole);
  // An infinite one would take all of a softmax, and nothing else would show it.
  const bool finite =
      std::all_of(sinks.begin(), sinks.end(), [](float sink) { return std::isfinite(sink); });
  return finite ? absl::OkStatus() : absl::InvalidArgumentError("has a value that is not finite");
}

void AddExperts(const ModelSpec& spec, TensorTable& table) {
  const int64_t slots = spec.gate.slots;
  const int64_t dim = spec.dim;
  const int64_t ffn = spec.expert_ffn_dim;
  const std::string prefix = "model.layers.{L}.mlp.";
  table.Add(prefix + "router.weight", {slots, dim}, &LayerWeights::gate);
  table.Add(prefix + "router.bias", {slots}, &LayerWeights::gate_logit_bias);
  table.AddRearranged(
      prefix + "experts.gate_up_proj", {slots, dim, 2 * ffn}, {&FfnWeights::gate, &FfnWeights::up},
      {{.rows = ffn, .cols = dim, .first = 0, .row_step = 2, .column_step = 2 * ffn},
       {.rows = ffn, .cols = dim, .first = 1, .row_step = 2, .column_step = 2 * ffn}});
  table.AddRearranged(prefix + "experts.gate_up_proj_bias", {slots, 2 * ffn},
                      {&FfnWeights::gate_bias, &FfnWeights::up_bias},
                      {{.rows = 1, .cols = ffn, .first = 0, .column_step = 2},
                       {.rows = 1, .cols = ffn, .first = 1, .column_step = 2}});
  table.AddRearranged(prefix + "experts.down_proj", {slots, ffn, dim}, {&FfnWeights::down},
                      {{.rows = dim, .cols = ffn, .row_step = 1, .column_step = dim}});
  table.AddOfExperts(prefix + "experts.down_proj_bias", {slots, dim},
                     [](LayerWeights& layer, size_t, const Weight& whole) {
                       int64_t row = 0;
                       for (FfnWeights& expert : layer.experts)
                         expert.down_bias = whole.Slice(row++, 1);
                       return absl::OkStatus();
                     });
}

}  // namespace

Family MakeGptOss(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  ReadExperts(config, options, spec);
  ReadAttention(config, options, spec);
  family.tensors.AddNorms(spec.dim);
  AddGqa(spec, family.tensors);
  family.tensors.Add("model.layers.{L}.self_attn.sinks", {spec.attention.heads},
                     TensorTable::In::kEveryLayer, BindSinks);
  AddExperts(spec, family.tensors);
  return family;
}

}  // namespace conclave::worker
