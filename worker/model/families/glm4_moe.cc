// GLM-4.5 with experts (arXiv:2508.06471): grouped-query attention of whose heads a share turns,
// under DeepSeek-V3's layers and gate.

#include "worker/model/families/deepseek.h"
#include "worker/model/families/gqa.h"

namespace conclave::worker {

Family MakeGlm4Moe(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  config.RequireAbsent("sliding_window");
  CheckLayerTypes(config, spec);
  ReadDeepSeekLayers(config, options, spec);
  ReadSigmoidGate(config, /*scale=*/1.0, options, spec);
  // The only expert of a token counts fully, which DeepSeek leaves at its score.
  spec.gate.normalise = config.BoolOr("norm_topk_prob", true);
  ReadGqa(config, {.partial = 0.5}, options, spec);
  spec.attention.bias = config.BoolOr("attention_bias", false);
  if (config.BoolOr("use_qk_norm", false)) spec.attention.qk_norm = AttentionSpec::QkNorm::kHeads;

  AddDeepSeekLayers(spec, family.tensors);
  AddGqa(spec, family.tensors);
  AddSelectionBias(spec, family.tensors);
  IgnoreNextTokenLayers(config, options, family);
  return family;
}

}  // namespace conclave::worker
