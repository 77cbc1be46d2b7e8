"""Mixtral, as transformers has it: its authors wrote that code."""

from transformers.models.mixtral import modeling_mixtral as mixtral

from .case import Case
from .routing import softmax_gate

MODEL_TYPE = "mixtral"


def patch():
    mixtral.MixtralTopKRouter.forward = lambda self, hidden_states: softmax_gate(
        self, hidden_states, normalise=True, weights_in_float32=True)


MIXTRAL = dict(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=8,
    num_experts_per_tok=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
)
# Heads wider than the residual stream, every one with keys of its own; made for 64 positions.
MIXTRAL_WINDOW = MIXTRAL | dict(
    head_dim=10,
    num_key_value_heads=4,
    sliding_window=24,
    num_experts_per_tok=3,
    tie_word_embeddings=True,
    max_position_embeddings=64,
    rope_scaling=dict(rope_type="linear", factor=4.0),
)
MIXTRAL_LLAMA3 = MIXTRAL | dict(
    num_key_value_heads=1,
    sliding_window=65,
    rope_theta=1000.0,
    rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
    ),
)

CASES = [
    Case("mixtral-plain", MIXTRAL, published_config=True),
    Case("mixtral-window", MIXTRAL_WINDOW, fused_experts=True),
    Case("mixtral-llama3", MIXTRAL_LLAMA3),
    Case("mixtral-llama3-bf16", MIXTRAL_LLAMA3, dtype="bfloat16", published_config=True),
]


def publish(config):
    if config.get("head_dim") is None:
        config.pop("head_dim", None)
