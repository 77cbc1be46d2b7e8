"""DeepSeekMoE, the first DeepSeek (model_type "deepseek"). transformers does not have it: this is a slow pass,
written from what the authors' modeling_deepseek.py of deepseek-ai/deepseek-moe-16b-base computes.

Llama's attention (any number of kv heads, rope_scaling linear), a softmax gate in the activations' type without
groups or scaling, experts' outputs weighed and summed in expert order, shared experts as one wide net.
"""

import json
import math
import pathlib
import types

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from .case import Case
from .routing import record, select

MODEL_TYPE = "deepseek"


class RmsNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Ffn(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.gate_proj = nn.Linear(dim, width, bias=False)
        self.up_proj = nn.Linear(dim, width, bias=False)
        self.down_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.top_k = config.num_experts_per_tok
        self.normalise = self.top_k > 1 and config.norm_topk_prob

    def forward(self, x):
        scores = F.linear(x, self.weight).softmax(dim=-1)
        weights, slots, gaps = select(scores, self.top_k)
        if self.normalise:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        record.add(slots, weights, gaps)
        return weights, slots


class Moe(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate = Gate(config)
        self.experts = nn.ModuleList(
            Ffn(config.hidden_size, config.moe_intermediate_size) for _ in range(config.n_routed_experts))
        if config.n_shared_experts:
            self.shared_experts = Ffn(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x):
        weights, slots = self.gate(x)
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            token, position = torch.where(slots == index)
            y.index_add_(0, token, expert(x[token]) * weights[token, position, None])
        return y + self.shared_experts(x) if hasattr(self, "shared_experts") else y


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.hidden_size // self.heads
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=bias)
        self.theta = config.rope_theta
        self.slower = 1.0
        if config.rope_scaling:
            assert config.rope_scaling["type"] == "linear", config.rope_scaling
            self.slower = config.rope_scaling["factor"]

    def rotate(self, x):
        """x [heads, tokens, head_dim]: column i turns with column i + head_dim / 2."""
        half = self.head_dim // 2
        frequencies = 1.0 / self.theta ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angles = torch.outer(torch.arange(x.shape[1]).float() / self.slower, frequencies)
        cos, sin = (torch.cat((turn, turn), dim=-1).to(x.dtype) for turn in (angles.cos(), angles.sin()))
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin

    def forward(self, x):
        tokens = x.shape[0]
        q, k, v = (projection(x).view(tokens, -1, self.head_dim).transpose(0, 1)
                   for projection in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.rotate(q), self.rotate(k)
        k, v = (one.repeat_interleave(self.heads // self.kv_heads, dim=0) for one in (k, v))
        scores = q @ k.transpose(1, 2) / math.sqrt(self.head_dim)
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
        weights = scores.softmax(dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
        return self.o_proj((weights @ v).transpose(0, 1).reshape(tokens, -1))


class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        moe = index >= config.first_k_dense_replace and index % config.moe_layer_freq == 0
        self.mlp = Moe(config) if moe else Ffn(config.hidden_size, config.intermediate_size)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Deepseek(nn.Module):
    """Called and looked into like a model of transformers."""

    def __init__(self, config):
        super().__init__()
        self.config = types.SimpleNamespace(**DEFAULTS | config)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(self.config.vocab_size, self.config.hidden_size)
        self.model.layers = nn.ModuleList(Layer(self.config, i) for i in range(self.config.num_hidden_layers))
        self.model.norm = RmsNorm(self.config.hidden_size, self.config.rms_norm_eps)
        self.lm_head = nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, token_ids, use_cache=False):
        x = self.model.embed_tokens(token_ids[0])
        for layer in self.model.layers:
            x = layer(x)
        return types.SimpleNamespace(logits=self.lm_head(self.model.norm(x)).unsqueeze(0))


# Of the authors' configuration_deepseek.py.
DEFAULTS = dict(
    model_type=MODEL_TYPE,
    n_shared_experts=None,
    moe_layer_freq=1,
    first_k_dense_replace=0,
    norm_topk_prob=False,
    scoring_func="softmax",
    attention_bias=False,
    tie_word_embeddings=False,
    hidden_act="silu",
    rope_theta=10000.0,
    rope_scaling=None,
)


def patch():
    pass


def write(case, directory, randomise):
    model = Deepseek(case.config)
    randomise(model, case)
    tensors = {name: weight.to(getattr(torch, case.dtype)).contiguous() for name, weight in model.state_dict().items()
               if not (model.config.tie_word_embeddings and name == "lm_head.weight")}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = vars(model.config) | dict(architectures=["DeepseekForCausalLM"], torch_dtype=case.dtype)
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load(directory, dtype):
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    model = Deepseek(config)
    tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(file)
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors)
    return model.to(dtype)


PLAIN = dict(
    vocab_size=160,
    hidden_size=24,
    intermediate_size=30,
    moe_intermediate_size=9,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    n_routed_experts=8,
    n_shared_experts=2,
    num_experts_per_tok=3,
    first_k_dense_replace=1,
    max_position_embeddings=1024,
    rms_norm_eps=1e-6,
    bos_token_id=0,
    eos_token_id=1,
)
# Fewer kv heads, biases, experts in every other layer, normalised weights, tied embeddings, no shared expert.
GQA = PLAIN | dict(
    hidden_size=30,
    num_attention_heads=5,
    num_key_value_heads=1,
    moe_intermediate_size=7,
    num_hidden_layers=4,
    attention_bias=True,
    first_k_dense_replace=0,
    moe_layer_freq=2,
    n_shared_experts=None,
    norm_topk_prob=True,
    tie_word_embeddings=True,
    rms_norm_eps=1e-4,
    rope_theta=100000.0,
)
LINEAR = PLAIN | dict(
    max_position_embeddings=100,
    rope_scaling=dict(type="linear", factor=2.5),
    num_key_value_heads=2,
    n_shared_experts=1,
    norm_topk_prob=True,
)

CASES = [
    Case("deepseek-plain", PLAIN),
    Case("deepseek-gqa", GQA),
    Case("deepseek-linear", LINEAR, seed=1),
    Case("deepseek-plain-bf16", PLAIN, dtype="bfloat16"),
]
