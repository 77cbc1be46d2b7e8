"""Qwen2-MoE, as transformers has it: its authors wrote that code.

Which layers max_window_layers lets look through the window has been read in three ways by releases of
transformers; no published model uses it. transformers 5 writes the answer down as layer_types.
"""

from transformers.models.qwen2_moe import modeling_qwen2_moe as qwen2_moe

from .case import Case
from .routing import softmax_gate

MODEL_TYPE = "qwen2_moe"


def patch():
    qwen2_moe.Qwen2MoeTopKRouter.forward = lambda self, hidden_states: softmax_gate(
        self, hidden_states, self.norm_topk_prob)


QWEN2 = dict(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=36,
    moe_intermediate_size=10,
    shared_expert_intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_experts=8,
    num_experts_per_tok=3,
    norm_topk_prob=False,
    max_position_embeddings=256,
    rms_norm_eps=1e-6,
    bos_token_id=0,
    eos_token_id=1,
    rope_theta=1000000.0,
)
# Of layers 1 and 3, which the step chooses, 3 is dense all the same.
QWEN2_SPARSE = QWEN2 | dict(num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3], max_window_layers=2)
QWEN2_WINDOW = QWEN2 | dict(
    num_hidden_layers=3,
    num_key_value_heads=2,
    norm_topk_prob=True,
    use_sliding_window=True,
    sliding_window=17,
    layer_types=["full_attention", "sliding_attention", "sliding_attention"],
    max_position_embeddings=64,
    rope_theta=10000.0,
    rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
)
QWEN2_BARE = QWEN2 | dict(qkv_bias=False, tie_word_embeddings=True, head_dim=8)

CASES = [
    Case("qwen2-moe-sparse", QWEN2_SPARSE, published_config=True),
    Case("qwen2-moe-window", QWEN2_WINDOW),
    Case("qwen2-moe-bare-bf16", QWEN2_BARE, dtype="bfloat16", fused_experts=True),
    Case("qwen2-moe-window-bf16", QWEN2_WINDOW, dtype="bfloat16"),
]


def publish(config):
    del config["layer_types"], config["qkv_bias"]
