"""Qwen3-MoE. transformers departs from the code its authors gave it in

  1. the window: with use_sliding_window, transformers 5 lets every layer look through it; the authors' layers
     below max_window_layers see everything. A config.json of transformers 5 has no such number.
"""

import torch
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe

from .case import Case
from .routing import softmax_gate

MODEL_TYPE = "qwen3_moe"


def patch():
    qwen3_moe.Qwen3MoeTopKRouter.forward = lambda self, hidden_states: softmax_gate(
        self, hidden_states, self.norm_topk_prob)
    forward = qwen3_moe.Qwen3MoeAttention.forward

    def forward_through_its_window(self, hidden_states, position_embeddings, attention_mask, **more):
        if self.layer_idx < (getattr(self.config, "max_window_layers", None) or 0):  # change 1
            n = hidden_states.shape[1]
            hidden = torch.full((n, n), torch.finfo(hidden_states.dtype).min, dtype=hidden_states.dtype)
            attention_mask = hidden.triu(1)[None, None]
        return forward(self, hidden_states, position_embeddings, attention_mask, **more)

    qwen3_moe.Qwen3MoeAttention.forward = forward_through_its_window


QWEN3 = dict(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=36,
    moe_intermediate_size=10,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    num_experts=8,
    num_experts_per_tok=3,
    norm_topk_prob=True,
    max_position_embeddings=256,
    rms_norm_eps=1e-6,
    bos_token_id=0,
    eos_token_id=1,
    rope_theta=1000000.0,
)
QWEN3_BIAS = QWEN3 | dict(attention_bias=True, tie_word_embeddings=True, norm_topk_prob=False, rms_norm_eps=1e-3)
# The first layer is dense and sees everything; made for 48 positions, stretched to 192.
QWEN3_YARN = QWEN3 | dict(
    num_hidden_layers=3,
    mlp_only_layers=[0],
    use_sliding_window=True,
    sliding_window=29,
    max_window_layers=1,
    rope_theta=10000.0,
    max_position_embeddings=48,
    rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=48, attention_factor=0.9, beta_fast=8.0
    ),
)
QWEN3_WINDOW = QWEN3 | dict(use_sliding_window=True, sliding_window=40, decoder_sparse_step=1)

CASES = [
    Case("qwen3-moe-bias", QWEN3_BIAS),
    Case("qwen3-moe-yarn", QWEN3_YARN, published_config=True),
    Case("qwen3-moe-window-bf16", QWEN3_WINDOW, dtype="bfloat16", fused_experts=True),
]


def publish(config):
    config["num_experts"] = config.pop("num_local_experts")
