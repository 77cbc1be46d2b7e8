"""GLM-4.5 with experts. Its authors gave the code to transformers, which departs from it in

  1. the sum of experts: transformers adds their outputs in expert order, rounding each sum to the activation
     type; the authors, as DeepSeek, sum in fp32 in gate order and round once.
"""

from transformers.models.glm4_moe import modeling_glm4_moe as glm4_moe

from .case import Case
from .routing import sigmoid_gate, sum_in_gate_order

MODEL_TYPE = "glm4_moe"


def patch():
    glm4_moe.Glm4MoeTopkRouter.forward = lambda self, hidden_states: sigmoid_gate(
        self, hidden_states, self.norm_topk_prob)
    glm4_moe.Glm4MoeExperts.forward = sum_in_gate_order  # change 1


GLM4 = dict(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=30,
    moe_intermediate_size=10,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    n_routed_experts=8,
    n_shared_experts=1,
    num_experts_per_tok=3,
    first_k_dense_replace=1,
    n_group=1,
    topk_group=1,
    norm_topk_prob=True,
    routed_scaling_factor=1.0,
    attention_bias=True,
    use_qk_norm=False,
    partial_rotary_factor=0.5,
    num_nextn_predict_layers=1,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    bos_token_id=0,
    eos_token_id=1,
    rope_theta=1000000.0,
)
GLM4_GROUP = GLM4 | dict(
    n_group=4,
    topk_group=2,
    n_routed_experts=12,
    routed_scaling_factor=2.5,
    use_qk_norm=True,
    attention_bias=False,
    n_shared_experts=2,
    tie_word_embeddings=True,
    max_position_embeddings=64,
    rope_theta=10000.0,
    rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, mscale=0.8, mscale_all_dim=0.5),
)
# One expert of each token, which counts fully; no dense layer; 5 columns are to turn, and transformers turns 6.
GLM4_ONE = GLM4 | dict(
    num_hidden_layers=2,
    num_experts_per_tok=1,
    first_k_dense_replace=0,
    partial_rotary_factor=0.42,
    max_position_embeddings=64,
    rope_scaling=dict(rope_type="linear", factor=3.0),
)

CASES = [
    Case("glm4-moe-plain", GLM4, published_config=True),
    Case("glm4-moe-group", GLM4_GROUP),
    Case("glm4-moe-one", GLM4_ONE, fused_experts=True),
    Case("glm4-moe-group-bf16", GLM4_GROUP, dtype="bfloat16"),
]


def publish(config):
    config["partial_rotary_factor"] = 0.5
