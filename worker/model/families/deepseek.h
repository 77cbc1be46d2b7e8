#pragma once
// What DeepSeek's generations share. For their family files; the semantics are the authors'
// modeling_deepseek.py of each. Where transformers departs from it (cos and sin under YaRN without
// mscale_all_dim, YaRN's context where none is given, norm_topk_prob, moe_layer_freq), it is not
// followed.

#include "worker/model/families.h"

namespace conclave::worker {

// Multi-head latent attention (DeepSeek-V2 §2.1). `interleaved`: a pair that turns are neighbours.
void ReadMla(Config& config, bool interleaved, const FamilyOptions& options, ModelSpec& spec);
void AddMla(const ModelSpec& spec, TensorTable& table);

// Dense layers first and between, experts of one width, shared experts as one wide net.
void ReadDeepSeekLayers(Config& config, const FamilyOptions& options, ModelSpec& spec);
// Norms, gate and feed-forward nets.
void AddDeepSeekLayers(const ModelSpec& spec, TensorTable& table);

// n_group and topk_group; needs the slots.
void ReadGroups(Config& config, GateShape::Select select, ModelSpec& spec);

// The gate of the third generation: sigmoid scores, a bias for selection alone, groups ranked by
// their best two. `scale` is the family's routed_scaling_factor unless the config says one.
void ReadSigmoidGate(Config& config, double scale, const FamilyOptions& options, ModelSpec& spec);
void AddSelectionBias(const ModelSpec& spec, TensorTable& table);

}  // namespace conclave::worker
