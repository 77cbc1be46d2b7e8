"""DeepSeek-V2. The authors' code is modeling_deepseek.py of deepseek-ai/DeepSeek-V2; transformers departs from it in

  1. the gate: norm_topk_prob is ignored; the authors normalise the chosen weights, and then do not multiply
     them with routed_scaling_factor;
  2. YaRN: transformers falls back to mscale(factor, 1) for cos and sin unless both mscale and mscale_all_dim
     are set; the authors default them to 1 and 0 one by one. Where no original context is given,
     transformers takes max_position_embeddings, the authors 4096;
  3. layers: moe_layer_freq is ignored;
  4. the sum of experts: transformers adds their outputs in expert order, rounding each sum to the activation
     type; the authors sum in fp32 in gate order and round once.
"""

import torch
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as deepseek_v2

from . import deepseek_yarn
from .case import Case
from .routing import record, select, sum_in_gate_order

MODEL_TYPE = "deepseek_v2"


def gate(self, hidden_states):
    config = self.config
    hidden_states = hidden_states.view(-1, self.hidden_dim)
    logits = torch.nn.functional.linear(hidden_states.float(), self.weight.float())
    scores = logits.softmax(dim=-1, dtype=torch.float32)
    gap = torch.full_like(scores[:, 0], float("inf"))
    if self.topk_method == "group_limited_greedy":
        by_group = scores.view(-1, self.num_group, self.num_experts // self.num_group)
        _, group, gap = select(by_group.max(dim=-1).values, self.topk_group)
        chosen = torch.zeros(by_group.shape[:2], dtype=torch.bool).scatter_(1, group, True)
        scores = by_group.masked_fill(~chosen.unsqueeze(-1), 0.0).view(-1, self.num_experts)
    elif self.topk_method != "greedy":
        raise ValueError(f"topk_method {self.topk_method} is not one of DeepSeek-V2's")
    weights, slots, score_gap = select(scores, self.top_k)
    if self.top_k > 1 and config.norm_topk_prob:  # change 1
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    else:
        weights = weights * self.routed_scaling_factor
    record.add(slots, weights, torch.minimum(gap, score_gap))
    return logits, weights, slots


def patch():
    gate_init = deepseek_v2.DeepseekV2TopkRouter.__init__

    def gate_init_keeping_config(self, config):
        gate_init(self, config)
        self.config = config

    deepseek_v2.DeepseekV2TopkRouter.__init__ = gate_init_keeping_config
    deepseek_v2.DeepseekV2TopkRouter.forward = gate
    deepseek_v2.DeepseekV2Experts.forward = sum_in_gate_order  # change 4

    deepseek_yarn.patch(deepseek_v2.DeepseekV2Config, deepseek_v2.DeepseekV2RotaryEmbedding,
                        deepseek_v2.yarn_get_mscale)  # change 2

    layer_init = deepseek_v2.DeepseekV2DecoderLayer.__init__

    def layer_init_with_frequency(self, config, layer_idx):
        layer_init(self, config, layer_idx)
        if layer_idx % getattr(config, "moe_layer_freq", 1) != 0:  # change 3
            self.mlp = deepseek_v2.DeepseekV2MLP(config)

    deepseek_v2.DeepseekV2DecoderLayer.__init__ = layer_init_with_frequency


DEEPSEEK = dict(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=36,
    moe_intermediate_size=10,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    kv_lora_rank=16,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    v_head_dim=12,
    n_routed_experts=8,
    n_shared_experts=2,
    num_experts_per_tok=2,
    first_k_dense_replace=1,
    moe_layer_freq=1,
    q_lora_rank=None,
    topk_method="greedy",
    norm_topk_prob=False,
    routed_scaling_factor=1.0,
    scoring_func="softmax",
    max_position_embeddings=1024,
    rms_norm_eps=1e-6,
    bos_token_id=0,
    eos_token_id=1,
    rope_theta=10000.0,
)
DEEPSEEK_GROUP = DEEPSEEK | dict(
    q_lora_rank=20,
    n_routed_experts=12,
    num_experts_per_tok=3,
    topk_method="group_limited_greedy",
    n_group=4,
    topk_group=2,
    routed_scaling_factor=2.5,
    rope_scaling=dict(
        type="yarn",
        factor=8.0,
        original_max_position_embeddings=128,
        beta_fast=32,
        beta_slow=1,
        mscale=0.9,
        mscale_all_dim=0.6,
    ),
)
DEEPSEEK_NORM = DEEPSEEK | dict(
    hidden_size=30,
    num_hidden_layers=2,
    num_attention_heads=5,
    num_key_value_heads=5,
    moe_intermediate_size=11,
    kv_lora_rank=12,
    qk_nope_head_dim=10,
    qk_rope_head_dim=6,
    v_head_dim=20,
    n_routed_experts=9,
    n_shared_experts=1,
    num_experts_per_tok=3,
    first_k_dense_replace=0,
    norm_topk_prob=True,
    routed_scaling_factor=3.0,
    tie_word_embeddings=True,
)
DEEPSEEK_LLAMA3 = DEEPSEEK | dict(
    num_hidden_layers=2,
    max_position_embeddings=256,
    rope_theta=1000.0,
    rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32,
        mscale_all_dim=0.7,
    ),
)
DEEPSEEK_WIDE = DEEPSEEK | dict(
    hidden_size=48,
    vocab_size=100,
    n_routed_experts=12,
    num_experts_per_tok=6,
    first_k_dense_replace=2,
    q_lora_rank=28,
    max_position_embeddings=256,
    rope_scaling=dict(
        type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=16, beta_slow=2, mscale=0.707
    ),
)
# Biases, a norm_eps the inner norms must not use, experts in every other layer, cos and sin below 1.
DEEPSEEK_BIAS = DEEPSEEK_GROUP | dict(
    n_routed_experts=8,
    attention_bias=True,
    mlp_bias=True,
    rms_norm_eps=1e-3,
    num_hidden_layers=4,
    moe_layer_freq=2,
    rope_scaling=dict(type="yarn", factor=8.0, original_max_position_embeddings=128, mscale_all_dim=0.8),
)

CASES = [
    Case("deepseek-v2-greedy", DEEPSEEK, published_config=True),
    Case("deepseek-v2-greedy-bf16", DEEPSEEK, dtype="bfloat16"),
    Case("deepseek-v2-group", DEEPSEEK_GROUP),
    Case("deepseek-v2-group-bf16", DEEPSEEK_GROUP, dtype="bfloat16", published_config=True),
    Case("deepseek-v2-norm", DEEPSEEK_NORM),
    Case("deepseek-v2-llama3", DEEPSEEK_LLAMA3, fused_experts=True),
    Case("deepseek-v2-wide-bf16-sharded", DEEPSEEK_WIDE, dtype="bfloat16",
         published_config=True, max_shard_size="60KB"),
    Case("deepseek-v2-bias", DEEPSEEK_BIAS),
]


def publish(config):
    for key in ("head_dim", "qk_head_dim"):
        config.pop(key, None)
