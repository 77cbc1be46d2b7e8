"""OLMoE, as transformers has it.

clip_qkv is the one place where the training code (allenai/OLMo clips before the QK norm) and the modelling
code its authors gave to transformers (clips after it) differ; every published OLMoE checkpoint has clip_qkv
null, and the reference follows transformers.
"""

from transformers.models.olmoe import modeling_olmoe as olmoe

from .case import LONG, Case
from .routing import softmax_gate

MODEL_TYPE = "olmoe"


def patch():
    olmoe.OlmoeTopKRouter.forward = lambda self, hidden_states: softmax_gate(self, hidden_states, self.norm_topk_prob)


OLMOE = dict(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=12,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_experts=8,
    num_experts_per_tok=2,
    norm_topk_prob=False,
    max_position_embeddings=1024,
    rms_norm_eps=1e-5,
    pad_token_id=1,
    eos_token_id=0,
    rope_theta=10000.0,
)
OLMOE_GQA = OLMOE | dict(
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=11,
    num_experts=10,
    num_experts_per_tok=4,
    norm_topk_prob=True,
    rope_theta=500000.0,
    vocab_size=100,
)
OLMOE_CLIP = OLMOE | dict(
    hidden_size=20,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_experts=14,
    num_experts_per_tok=6,
    clip_qkv=1.25,
    tie_word_embeddings=True,
)
OLMOE_BIAS = OLMOE_GQA | dict(attention_bias=True, norm_topk_prob=False)
OLMOE_YARN = OLMOE_GQA | dict(
    max_position_embeddings=64,
    rope_theta=10000.0,
    rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, truncate=False),
)
OLMOE_WIDE = OLMOE | dict(
    hidden_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=100,
    num_experts=6,
    norm_topk_prob=True,
)

CASES = [
    Case("olmoe-bias", OLMOE_BIAS),
    Case("olmoe-plain", OLMOE, lengths=LONG),
    Case("olmoe-plain-bf16", OLMOE, dtype="bfloat16", published_config=True),
    Case("olmoe-gqa-norm", OLMOE_GQA, published_config=True),
    Case("olmoe-yarn", OLMOE_YARN, fused_experts=True),
    Case("olmoe-clip-f16", OLMOE_CLIP, dtype="float16", published_config=True),
    Case("olmoe-wide-bf16", OLMOE_WIDE, dtype="bfloat16", scale=dict(gate=1.3)),
]


def publish(config):
    config.pop("head_dim", None)
