// DeepSeekMoE (arXiv:2401.06066), model_type "deepseek": Llama's attention over DeepSeek's layers,
// a softmax gate without groups.

#include "absl/strings/str_format.h"
#include "worker/model/families/deepseek.h"
#include "worker/model/families/gqa.h"

namespace conclave::worker {

Family MakeDeepSeekV1(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  config.RequireAbsent("sliding_window");
  ReadDeepSeekLayers(config, options, spec);
  ReadSlots(config, "n_routed_experts", options, spec);
  config.RequireOneOf("scoring_func", "softmax", {"softmax"});
  spec.gate.normalise = config.BoolOr("norm_topk_prob", false) && spec.gate.top_k > 1;
  ReadGqa(config, {}, options, spec);
  if (spec.attention.head_dim * spec.attention.heads != spec.dim) {
    config.Refuse(
        absl::StrFormat("head_dim is %d, expected hidden_size %d over num_attention_heads %d",
                        spec.attention.head_dim, spec.dim, spec.attention.heads));
  }
  spec.attention.bias = config.BoolOr("attention_bias", false);
  spec.attention.output_bias = spec.attention.bias;
  AddDeepSeekLayers(spec, family.tensors);
  AddGqa(spec, family.tensors);
  return family;
}

}  // namespace conclave::worker
