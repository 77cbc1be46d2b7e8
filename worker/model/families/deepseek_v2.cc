// DeepSeek-V2 (arXiv:2405.04434): multi-head latent attention, dense layers first, shared experts
// beside routed ones, a softmax gate that may be limited to groups.

#include "worker/model/families/deepseek.h"

namespace conclave::worker {
namespace {

void ReadGate(Config& config, const FamilyOptions& options, ModelSpec& spec) {
  GateShape& gate = spec.gate;
  ReadSlots(config, "n_routed_experts", options, spec);
  config.RequireOneOf("scoring_func", "softmax", {"softmax"});
  // "gready" is how the authors' configuration spells its default.
  config.RequireOneOf("topk_method", "greedy", {"greedy", "gready", "group_limited_greedy"});
  if (config.StringOr("topk_method", "greedy") == "group_limited_greedy") {
    ReadGroups(config, GateShape::Select::kGroupMax, spec);
  }
  // One or the other: normalised weights are not scaled.
  const double scale = config.FloatOr("routed_scaling_factor", 1.0, {1e-6, 1e6});
  gate.normalise = config.BoolOr("norm_topk_prob", false) && gate.top_k > 1;
  gate.scale = gate.normalise ? 1.0f : static_cast<float>(scale);
}

}  // namespace

Family MakeDeepSeekV2(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  // Biases are transformers' word; the authors' nets have none.
  spec = ReadCommonSpec(config, options, /*may_have_bias=*/true);
  config.RequireAbsent("sliding_window");
  ReadDeepSeekLayers(config, options, spec);
  ReadGate(config, options, spec);
  ReadMla(config, /*interleaved=*/true, options, spec);
  AddDeepSeekLayers(spec, family.tensors);
  AddMla(spec, family.tensors);
  return family;
}

}  // namespace conclave::worker
