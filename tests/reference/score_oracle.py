#!/usr/bin/env python3
"""Log-probabilities and routing of a checkpoint, computed by transformers.

Prints for any DeepSeek-V2 or OLMoE checkpoint directory the document that make_checkpoints.py commits
as reference.json (README.md has its format), so that a new configuration, or the bundled model, can be
compared with `conclave score`.

Where transformers departs from the code the authors published (modeling_deepseek.py of DeepSeek-V2),
the authors are right. patch_transformers() changes transformers, one comment for each change:

  1. DeepSeek-V2 gate: norm_topk_prob is ignored by transformers; the authors normalise the chosen
     weights, and then do not multiply them with routed_scaling_factor.
  2. DeepSeek-V2 YaRN: transformers falls back to mscale(factor, 1) for cos and sin unless both mscale
     and mscale_all_dim are set; the authors default them to 1 and 0 one by one.
  3. DeepSeek-V2 layers: transformers ignores moe_layer_freq.
  4. DeepSeek-V2 combine: transformers adds the experts' outputs in expert order, rounding each sum to
     the activation type; the authors sum in fp32 in gate order and round once.
  5. Both gates: torch.topk leaves open which of two equal scores wins and, unsorted, the order; here
     weights descend and ties go to the lower slot.

Everything else, for OLMoE too, is transformers as installed. OLMoE's clip_qkv is the one place where
the training code (allenai/OLMo clips before the QK norm) and the modelling code its authors gave to
transformers (clips after it) differ; every published OLMoE checkpoint has clip_qkv null, and the
reference follows transformers.
"""

import argparse
import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as deepseek_v2
from transformers.models.olmoe import modeling_olmoe as olmoe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class RoutingRecord:
    """What the gates chose, in the order in which the layers ran."""

    def __init__(self):
        self.layers = []  # (slots [tokens, k], weights [tokens, k], gaps [tokens])

    def add(self, slots, weights, gaps):
        self.layers.append((slots.cpu(), weights.float().cpu(), gaps.float().cpu()))


record = RoutingRecord()


def select(scores, k):
    """The k largest of scores [tokens, n], descending, ties to the lower index, and the gap to the next."""
    ordered, index = torch.sort(scores, dim=-1, descending=True, stable=True)
    if k == scores.shape[-1]:
        gap = torch.full_like(ordered[:, 0], float("inf"))  # nothing is left out: never ambiguous
    else:
        gap = ordered[:, k - 1] - ordered[:, k]
    return ordered[:, :k], index[:, :k], gap


def deepseek_gate(self, hidden_states):
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
    weights, slots, score_gap = select(scores, self.top_k)  # change 5
    if self.top_k > 1 and config.norm_topk_prob:  # change 1
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    else:
        weights = weights * self.routed_scaling_factor
    record.add(slots, weights, torch.minimum(gap, score_gap))
    return logits, weights, slots


def deepseek_combine(self, hidden_states, top_k_index, top_k_weights):
    rows = torch.zeros(*top_k_index.shape, self.hidden_dim, dtype=hidden_states.dtype)
    for expert in top_k_index.unique().tolist():
        token, position = torch.where(top_k_index == expert)
        gate, up = torch.nn.functional.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
        down = torch.nn.functional.linear(self.act_fn(gate) * up, self.down_proj[expert])
        rows[token, position] = down
    # change 4
    return (rows.to(top_k_weights.dtype) * top_k_weights.unsqueeze(-1)).sum(dim=1).to(hidden_states.dtype)


def olmoe_gate(self, hidden_states):
    hidden_states = hidden_states.reshape(-1, self.hidden_dim)
    logits = torch.nn.functional.linear(hidden_states, self.weight)
    scores = torch.nn.functional.softmax(logits, dtype=torch.float, dim=-1)
    weights, slots, gap = select(scores, self.top_k)  # change 5
    if self.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    weights = weights.to(logits.dtype)
    record.add(slots, weights, gap)
    return logits, weights, slots


def patch_transformers():
    gate_init = deepseek_v2.DeepseekV2TopkRouter.__init__

    def gate_init_keeping_config(self, config):
        gate_init(self, config)
        self.config = config

    deepseek_v2.DeepseekV2TopkRouter.__init__ = gate_init_keeping_config
    deepseek_v2.DeepseekV2TopkRouter.forward = deepseek_gate
    deepseek_v2.DeepseekV2Experts.forward = deepseek_combine
    olmoe.OlmoeTopKRouter.forward = olmoe_gate

    rope_init = deepseek_v2.DeepseekV2RotaryEmbedding.__init__

    def rope_init_with_mscale(self, config):
        rope_init(self, config)
        rope = config.rope_parameters
        if rope["rope_type"] == "yarn":  # change 2
            factor = rope["factor"]
            mscale, mscale_all_dim = rope.get("mscale", 1), rope.get("mscale_all_dim", 0)
            self.attention_scaling = deepseek_v2.yarn_get_mscale(factor, mscale) / deepseek_v2.yarn_get_mscale(
                factor, mscale_all_dim
            )

    deepseek_v2.DeepseekV2RotaryEmbedding.__init__ = rope_init_with_mscale

    layer_init = deepseek_v2.DeepseekV2DecoderLayer.__init__

    def layer_init_with_frequency(self, config, layer_idx):
        layer_init(self, config, layer_idx)
        if layer_idx % getattr(config, "moe_layer_freq", 1) != 0:  # change 3
            self.mlp = deepseek_v2.DeepseekV2MLP(config)

    deepseek_v2.DeepseekV2DecoderLayer.__init__ = layer_init_with_frequency


def load(directory, dtype):
    """dtype: a key of DTYPES; None: the checkpoint's own, F16 widened to float32, which is exact."""
    config = transformers.AutoConfig.from_pretrained(directory)
    if config.model_type not in ("deepseek_v2", "olmoe"):
        raise SystemExit(f"{directory}: model_type {config.model_type} is neither deepseek_v2 nor olmoe")
    if dtype is None:
        dtype = "bfloat16" if config.dtype == torch.bfloat16 else "float32"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=DTYPES[dtype], attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval(), dtype


def moe_layers(model):
    return [i for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "gate")]


def significant(values, digits):
    """Rounds for print: 9 digits give a float32 back exactly."""
    return [float(f"{v:.{digits}g}") for v in values]


@torch.no_grad()
def score(model, token_ids):
    """Log-probabilities (natural log of p(token i | tokens < i), the first null) and routing."""
    record.layers.clear()
    logits = model(torch.tensor([token_ids]), use_cache=False).logits[0]
    logprobs = logits.double().log_softmax(dim=-1)
    following = torch.tensor(token_ids[1:], dtype=torch.long)
    chosen = logprobs[:-1].gather(1, following.unsqueeze(-1))[:, 0]
    routing = []
    for layer, (slots, weights, gaps) in zip(moe_layers(model), record.layers):
        routing.append(
            {
                "layer": layer,
                "experts": slots.tolist(),
                "weights": [significant(row, 6) for row in weights.tolist()],
                "gaps": significant(gaps.clamp(max=1.0).tolist(), 2),
            }
        )
    return {"token_ids": token_ids, "logprobs": [None] + significant(chosen.tolist(), 9), "routing": routing}


def describe(model, dtype, sequences):
    return {
        "family": model.config.model_type,
        "computed_in": dtype,
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "moe_layers": moe_layers(model),
        "sequences": sequences,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="directory with config.json and *.safetensors")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--token-ids", action="append", metavar="1,2,3", help="may be given several times")
    what.add_argument("--text", action="append", help="tokenised by the checkpoint's tokenizer.json")
    what.add_argument("--file", help="like --text, with the content of a file")
    parser.add_argument("--dtype", choices=DTYPES, help="compute in this type (default: the checkpoint's)")
    parser.add_argument("--unpatched", action="store_true", help="transformers as it is: log-probabilities, no routing")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    if not arguments.unpatched:
        patch_transformers()
    if arguments.token_ids:
        sequences = [[int(i) for i in ids.split(",")] for ids in arguments.token_ids]
    else:
        from tokenizers import Tokenizer

        texts = arguments.text or [open(arguments.file, encoding="utf-8", newline="").read()]
        tokenizer = Tokenizer.from_file(os.path.join(arguments.checkpoint, "tokenizer.json"))
        sequences = [tokenizer.encode(text).ids for text in texts]
    model, dtype = load(arguments.checkpoint, arguments.dtype)
    for ids in sequences:
        unknown = [i for i in ids if not 0 <= i < model.config.vocab_size]
        if unknown or not ids:
            raise SystemExit(f"token ids {unknown or ids} are not below the vocabulary's {model.config.vocab_size}")
    json.dump(describe(model, dtype, [score(model, ids) for ids in sequences]), sys.stdout)
    print()


if __name__ == "__main__":
    main()
