#pragma once
// Grouped-query attention as most families have it, and which of their layers see all positions,
// which have experts. For family files.

#include "worker/model/families.h"

namespace conclave::worker {

// num_key_value_heads (all heads if it is missing), head_dim (hidden_size / num_attention_heads if
// it is missing), the scale and the rotary embedding. Biases and norms are the family's to set.
void ReadGqa(Config& config, const RopeDialect& dialect, const FamilyOptions& options,
             ModelSpec& spec);
// model.layers.{L}.self_attn of spec.attention: projections, and the biases and norms it has.
void AddGqa(const ModelSpec& spec, TensorTable& table);

// The windows of layers by layer_types, a list of "full_attention" and "sliding_attention". False,
// and nothing is set, if there is none.
bool ReadLayerTypes(Config& config, int32_t window, ModelSpec& spec);
// For families that do not go by layer_types: refuses those that say otherwise than spec.layers.
void CheckLayerTypes(Config& config, const ModelSpec& spec);

// Qwen: experts in every decoder_sparse_step-th layer but mlp_only_layers; the width of the dense
// ones if there are any, and of experts.
void ReadSparseLayers(Config& config, const FamilyOptions& options, ModelSpec& spec);

}  // namespace conclave::worker
