// DeepSeek-V3 (arXiv:2412.19437), R1 too: DeepSeek-V2's layers under a sigmoid gate. Slots are
// chosen by score plus a bias that balances their load, in groups ranked by their best two; weights
// are of the scores alone, normalised and then scaled.

#include "worker/model/families/deepseek.h"

namespace conclave::worker {

Family MakeDeepSeekV3(Config& config, const FamilyOptions& options) {
  Family family;
  ModelSpec& spec = family.spec;
  spec = ReadCommonSpec(config, options);
  config.RequireAbsent("sliding_window");
  ReadDeepSeekLayers(config, options, spec);
  ReadSigmoidGate(config, /*scale=*/2.5, options, spec);
  // Only transformers has a word for it; the authors always interleave.
  ReadMla(config, config.BoolOr("rope_interleave", true), options, spec);
  AddDeepSeekLayers(spec, family.tensors);
  AddMla(spec, family.tensors);
  AddSelectionBias(spec, family.tensors);
  IgnoreNextTokenLayers(config, options, family);
  return family;
}

}  // namespace conclave::worker
