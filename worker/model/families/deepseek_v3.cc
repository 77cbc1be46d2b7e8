// DeepSeek-V3 (arXiv:2412.19437), R1 too: DeepSeek-V2's layers under a sigmoid gate. Slots are
// chosen by score plus a bias that balances their load, in groups ranked by their best two; weights
// are of the scores alone, normalised and then scaled.

#include "absl/strings/str_format.h"
#include "worker/model/families/deepseek.h"

namespace conclave::worker {
namespace {

void ReadGate(Config& config, const FamilyOptions& options, ModelSpec& spec) {
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
  gate.scale = static_cast<float>(config.FloatOr("routed_scaling_factor", 1.0, {1e-6, 1e6}));
}

}  // namespace

Family MakeDeepSeekV3(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  config.RequireAbsent("sliding_window");
  ReadDeepSeekLayers(config, options, spec);
  ReadGate(config, options, spec);
  ReadMla(config, options, spec);
  AddDeepSeekLayers(spec, family.tensors);
  AddMla(spec, family.tensors);
  family.tensors.AddGateBias("model.layers.{L}.mlp.gate.e_score_correction_bias", spec.gate.slots);
  IgnoreNextTokenLayers(config, options, family);
  return family;
}

}  // namespace conclave::worker
