"""gpt-oss. The authors' code is gpt_oss/torch/model.py of openai/gpt-oss; transformers departs from it in

  1. the sum of experts: transformers adds their outputs in expert order, rounding each sum to the activation
     type; the authors sum in gate order and round once.

Experts are chosen by their logits, and only the chosen ones share the softmax. A gap is recorded in the softmax
over all of them, so that it means the same as other families'.
"""

import torch
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss

from .case import Case
from .routing import record, select

MODEL_TYPE = "gpt_oss"


def gate(self, hidden_states):
    logits = torch.nn.functional.linear(hidden_states, self.weight, self.bias)
    chosen, slots, _ = select(logits, self.top_k)
    weights = chosen.softmax(dim=-1)
    wide = torch.promote_types(logits.dtype, torch.float32)
    _, _, gaps = select(logits.to(wide).softmax(dim=-1), self.top_k)
    record.add(slots, weights, gaps)
    return logits, weights, slots


def experts(self, hidden_states, router_indices=None, routing_weights=None):
    rows = torch.zeros(*router_indices.shape, self.hidden_size, dtype=hidden_states.dtype)
    for expert in router_indices.unique().tolist():
        token, position = torch.where(router_indices == expert)
        gate_up = hidden_states[token] @ self.gate_up_proj[expert] + self.gate_up_proj_bias[expert]
        rows[token, position] = self._apply_gate(gate_up) @ self.down_proj[expert] + self.down_proj_bias[expert]
    wide = torch.promote_types(rows.dtype, torch.float32)
    summed = (rows.to(wide) * routing_weights.to(wide).unsqueeze(-1)).sum(dim=1)  # change 1
    return summed.to(hidden_states.dtype)


def patch():
    gpt_oss.GptOssTopKRouter.forward = gate
    gpt_oss.GptOssExperts.forward = experts


# Published: head_dim 64 of 2880 / 64, YaRN with ramps that end between pairs, biases everywhere.
PUBLISHED = dict(
    vocab_size=160,
    hidden_size=18,
    intermediate_size=10,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_local_experts=8,
    num_experts_per_tok=3,
    sliding_window=20,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    rope_theta=150000.0,
    rope_scaling=dict(
        rope_type="yarn",
        factor=16.0,
        original_max_position_embeddings=32,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=False,
    ),
    pad_token_id=0,
    eos_token_id=1,
)
# No biases in attention, a tighter clamp, the layers' kinds by default, ramps that end at whole pairs.
BARE = {key: value for key, value in PUBLISHED.items() if key != "layer_types"} | dict(
    attention_bias=False,
    swiglu_limit=0.6,
    swiglu_alpha=1.1,
    num_key_value_heads=1,
    num_hidden_layers=4,
    intermediate_size=7,
    sliding_window=64,
    num_experts_per_tok=1,
    rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=40, attention_factor=1.3),
)
PLAIN = PUBLISHED | dict(
    layer_types=["full_attention", "sliding_attention", "sliding_attention"],
    sliding_window=1,
    tie_word_embeddings=True,
    hidden_size=20,
    rope_scaling=dict(rope_type="default"),
    num_local_experts=6,
    num_experts_per_tok=6,
)

CASES = [
    Case("gpt-oss-published", PUBLISHED, published_config=True, fused_experts=True),
    Case("gpt-oss-bare", BARE, fused_experts=True),
    Case("gpt-oss-plain", PLAIN, fused_experts=True),
    Case("gpt-oss-published-bf16", PUBLISHED, dtype="bfloat16", published_config=True, fused_experts=True),
]


def publish(config):
    config["experts_per_token"] = config["num_experts_per_tok"]
    if "original_max_position_embeddings" in config["rope_scaling"]:
        config["initial_context_length"] = config["rope_scaling"]["original_max_position_embeddings"]
    config.pop("swiglu_alpha")
