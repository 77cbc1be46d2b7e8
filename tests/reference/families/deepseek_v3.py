"""DeepSeek-V3. The authors' code is modeling_deepseek.py of deepseek-ai/DeepSeek-V3; transformers departs from it in

  1. the gate: weights are normalised even where only one expert is chosen;
  2. YaRN: transformers falls back to mscale(factor, 1) for cos and sin unless both mscale and mscale_all_dim
     are set; the authors default them to 1 and 0 one by one. Where no original context is given,
     transformers takes max_position_embeddings, the authors 4096;
  3. layers: moe_layer_freq is ignored;
  4. the sum of experts: transformers adds their outputs in expert order, rounding each sum to the activation
     type; the authors sum in fp32 in gate order and round once.

Published checkpoints have layers behind the model's own that predict further tokens
(num_nextn_predict_layers); neither code runs them in an ordinary pass.
"""

import torch
from safetensors.torch import load_file, save_file
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek_v3

from . import deepseek_yarn, fp8
from .case import Case
from .routing import sigmoid_gate, sum_in_gate_order

MODEL_TYPE = "deepseek_v3"


def patch():
    deepseek_v3.DeepseekV3TopkRouter.forward = lambda self, hidden_states: sigmoid_gate(
        self, hidden_states, self.top_k > 1 and self.norm_topk_prob)  # change 1
    deepseek_v3.DeepseekV3Experts.forward = sum_in_gate_order  # change 4

    deepseek_yarn.patch(deepseek_v3.DeepseekV3Config, deepseek_v3.DeepseekV3RotaryEmbedding,
                        deepseek_v3.yarn_get_mscale)  # change 2

    layer_init = deepseek_v3.DeepseekV3DecoderLayer.__init__

    def layer_init_with_frequency(self, config, layer_idx):
        layer_init(self, config, layer_idx)
        if layer_idx % getattr(config, "moe_layer_freq", 1) != 0:  # change 3
            self.mlp = deepseek_v3.DeepseekV3MLP(config)

    deepseek_v3.DeepseekV3DecoderLayer.__init__ = layer_init_with_frequency


PLAIN = dict(
    vocab_size=160,
    hidden_size=24,
    intermediate_size=30,
    moe_intermediate_size=8,
    num_hidden_layers=3,
    num_attention_heads=3,
    num_key_value_heads=3,
    q_lora_rank=14,
    kv_lora_rank=10,
    qk_nope_head_dim=6,
    qk_rope_head_dim=6,
    v_head_dim=7,
    n_routed_experts=8,
    n_shared_experts=1,
    num_experts_per_tok=3,
    n_group=4,
    topk_group=2,
    norm_topk_prob=True,
    routed_scaling_factor=2.5,
    scoring_func="sigmoid",
    topk_method="noaux_tc",
    first_k_dense_replace=1,
    moe_layer_freq=1,
    num_nextn_predict_layers=1,
    max_position_embeddings=1024,
    rms_norm_eps=1e-6,
    bos_token_id=0,
    eos_token_id=1,
    rope_theta=10000.0,
)
YARN = PLAIN | dict(
    max_position_embeddings=640,
    rope_scaling=dict(type="yarn", factor=20, original_max_position_embeddings=32, beta_fast=32, beta_slow=1,
                      mscale=1.0, mscale_all_dim=1.0),
)
# One group, one expert of each token, biases, experts in every other layer, no low-rank query, halves rotated,
# an epsilon that the inner norms must not use.
ODD = PLAIN | dict(
    n_group=1,
    topk_group=1,
    num_experts_per_tok=1,
    n_shared_experts=2,
    attention_bias=True,
    num_hidden_layers=4,
    first_k_dense_replace=0,
    moe_layer_freq=2,
    q_lora_rank=None,
    rope_interleave=False,
    rms_norm_eps=1e-3,
    tie_word_embeddings=True,
    num_nextn_predict_layers=0,
)
# Unnormalised weights, and cos and sin scaled.
LOOSE = YARN | dict(
    norm_topk_prob=False,
    routed_scaling_factor=0.7,
    rope_scaling=dict(type="yarn", factor=8, original_max_position_embeddings=64, mscale=0.707),
)

CASES = [
    Case("deepseek-v3-plain", PLAIN, published_config=True),
    Case("deepseek-v3-yarn", YARN, published_config=True),
    Case("deepseek-v3-odd", ODD),
    Case("deepseek-v3-loose-fused", LOOSE, fused_experts=True),
    Case("deepseek-v3-yarn-bf16", YARN, dtype="bfloat16", published_config=True),
    Case("deepseek-v3-fp8", YARN | fp8.settings(16, 10), published_config=True),
    Case("deepseek-v3-fp8-bf16", PLAIN | fp8.settings(128, 128), dtype="bfloat16", published_config=True),
]


def finish(case, directory):
    """What published checkpoints have and transformers does not save: the layers behind the model's own, FP8."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    if "quantization_config" in case.config:
        tensors = fp8.quantised(tensors, case.config["quantization_config"]["weight_block_size"])
    if case.config["num_nextn_predict_layers"] > 0:
        own, added = case.config["num_hidden_layers"] - 1, case.config["num_hidden_layers"]
        last = {name: one for name, one in tensors.items() if name.startswith(f"model.layers.{own}.input_layernorm")}
        tensors |= {name.replace(f".{own}.", f".{added}."): one.clone() for name, one in last.items()}
        tensors[f"model.layers.{added}.enorm.weight"] = torch.ones(case.config["hidden_size"])
    save_file(tensors, file, metadata={"format": "pt"})


def publish(config):
    for key in ("head_dim", "qk_head_dim", "rope_interleave"):
        config.pop(key, None)
