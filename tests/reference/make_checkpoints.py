#!/usr/bin/env python3
"""Writes the tiny random checkpoints of tests/reference/checkpoints with their reference outputs.

Each case is a directory NAME/ with config.json, safetensors in the published layout (one tensor per
expert matrix) and reference.json, computed by transformers with the changes that score_oracle.py
lists. README.md has the format.

A reference is only worth comparing with if rounding cannot decide it, so the script checks, and stops
otherwise: F32 against a float64 run, BF16 against a float32 run of the same weights, and that no
F32 routing choice is closer than GAP_MIN_F32.
"""

import argparse
import json
import math
import pathlib
import shutil
from dataclasses import dataclass, field

import torch
import transformers
from safetensors.torch import load_file

import score_oracle

HERE = pathlib.Path(__file__).resolve().parent

# A case is refused if its own rounding noise comes near the tolerances of the comparison
# (F32 max 1e-3, BF16 mean 0.02, BF16 routing gap 1e-2).
F32_NOISE_MAX = 1e-4
BF16_NOISE_MEAN_MAX = 0.009
BF16_GAP_FLIPPED_MAX = 0.004
GAP_MIN_F32 = 3e-6


@dataclass
class Case:
    name: str
    family: str
    config: dict
    dtype: str = "float32"  # of the stored weights
    lengths: tuple = (5, 40, 150)  # tokens per sequence; prefill chunks are 16, 64 or 512
    seed: int = 0
    # True: config.json as the authors publish it (rope_theta, rope_scaling, torch_dtype);
    # False: as transformers 5 writes it (rope_parameters, dtype).
    published_config: bool = False
    max_shard_size: str = "1GB"
    scale: dict = field(default_factory=dict)  # overrides of STD


DEEPSEEK = dict(
    vocab_size=256,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=12,
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
DEEPSEEK_WIDE = DEEPSEEK | dict(
    hidden_size=48,
    num_hidden_layers=4,
    vocab_size=260,
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
    attention_bias=True,
    rms_norm_eps=1e-3,
    num_hidden_layers=4,
    moe_layer_freq=2,
    rope_scaling=dict(type="yarn", factor=8.0, original_max_position_embeddings=128, mscale_all_dim=0.8),
)

OLMOE = dict(
    vocab_size=256,
    hidden_size=32,
    intermediate_size=16,
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
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=11,
    num_experts=10,
    num_experts_per_tok=4,
    norm_topk_prob=True,
    rope_theta=500000.0,
    vocab_size=260,
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
OLMOE_WIDE = OLMOE | dict(
    hidden_size=80,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=288,
    num_experts=6,
    norm_topk_prob=True,
)

LONG = (5, 40, 150, 700)
CASES = [
    Case("deepseek-v2-greedy", "deepseek_v2", DEEPSEEK, published_config=True),
    Case("deepseek-v2-greedy-bf16", "deepseek_v2", DEEPSEEK, dtype="bfloat16"),
    Case("deepseek-v2-group", "deepseek_v2", DEEPSEEK_GROUP, lengths=LONG),
    Case("deepseek-v2-group-bf16", "deepseek_v2", DEEPSEEK_GROUP, dtype="bfloat16", published_config=True),
    Case("deepseek-v2-norm", "deepseek_v2", DEEPSEEK_NORM),
    Case("deepseek-v2-wide-bf16-sharded", "deepseek_v2", DEEPSEEK_WIDE, dtype="bfloat16",
         published_config=True, max_shard_size="60KB"),
    Case("deepseek-v2-bias", "deepseek_v2", DEEPSEEK_BIAS),
    Case("olmoe-bias", "olmoe", OLMOE_BIAS),
    Case("olmoe-plain", "olmoe", OLMOE, lengths=LONG),
    Case("olmoe-plain-bf16", "olmoe", OLMOE, dtype="bfloat16", lengths=LONG, published_config=True),
    Case("olmoe-gqa-norm", "olmoe", OLMOE_GQA, published_config=True),
    Case("olmoe-clip-f16", "olmoe", OLMOE_CLIP, dtype="float16", published_config=True),
    Case("olmoe-wide-bf16", "olmoe", OLMOE_WIDE, dtype="bfloat16", scale=dict(gate=1.3)),
]

# Standard deviation of a weight, times 1/sqrt(inputs) except for embed_tokens. F32: large, so that routing
# and log-probabilities are far from uniform and a wrong term shows. BF16: so much smaller that rounding,
# and the other expert that rounding may choose, stay below the tolerance.
STD = {
    "float32": dict(embed_tokens=1.0, attention=1.2, gate=2.5, experts=1.6, mlp=1.3, lm_head=1.6, norm=0.15),
    "bfloat16": dict(embed_tokens=2.0, attention=0.8, gate=1.8, experts=0.6, mlp=0.8, lm_head=1.0, norm=0.15),
}
STD["float16"] = STD["float32"]


def randomise(model, case):
    """Fills every weight from the case's seed; norms around 1, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(1000 + case.seed)
    std = STD[case.dtype] | case.scale
    for name, weight in sorted(model.named_parameters()):
        values = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
        if "norm" in name:
            values = 1.0 + std["norm"] * values
        elif "embed_tokens" in name:
            values *= std["lm_head"] / math.sqrt(weight.shape[-1]) if case.config.get("tie_word_embeddings") else (
                std["embed_tokens"])
        else:
            kind = next(
                kind for kind, part in (
                    ("lm_head", "lm_head"), ("attention", "self_attn"), ("gate", "mlp.gate.weight"),
                    ("experts", "mlp.experts"), ("mlp", "mlp"),
                ) if part in name
            )
            values *= std[kind] / math.sqrt(weight.shape[-1])
        with torch.no_grad():
            weight.copy_(values)


def publish_config(path, case):
    """Rewrites the config.json of transformers 5 to the keys of the published checkpoints."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = case.config.get("rope_scaling")
    config["torch_dtype"] = config.pop("dtype")
    config.pop("head_dim", None)
    config.pop("qk_head_dim", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_checkpoint(case, directory):
    config_class = {
        "deepseek_v2": transformers.DeepseekV2Config, "olmoe": transformers.OlmoeConfig,
    }[case.family]
    config = config_class(**json.loads(json.dumps(case.config)), attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomise(model, case)
    model.to(getattr(torch, case.dtype)).save_pretrained(directory, max_shard_size=case.max_shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if case.published_config:
        publish_config(directory / "config.json", case)
    check_layout(directory)


def check_layout(directory):
    """transformers keeps a layer's experts in one tensor; on disk it must be one tensor per expert matrix."""
    keys = [key for file in sorted(directory.glob("*.safetensors")) for key in load_file(file)]
    assert any(key.endswith("mlp.experts.0.gate_proj.weight") for key in keys), keys
    assert not any("gate_up_proj" in key for key in keys), keys


def make_tokens(case, attempt):
    """Random ids, with a run of equal ones in longer sequences."""
    generator = torch.Generator().manual_seed(2000 + case.seed + 100 * attempt)
    for length in case.lengths:
        ids = torch.randint(0, case.config["vocab_size"], (length,), generator=generator).tolist()
        if length >= 40:
            ids[20:26] = [ids[20]] * 6
        yield ids


def smallest_gap(sequence):
    return min(min(layer["gaps"]) for layer in sequence["routing"])


def deltas(a, b):
    return [abs(x - y) for x, y in zip(a["logprobs"][1:], b["logprobs"][1:])]


def flipped_gap(sequence, exact):
    """The largest gap at which a run in higher precision chose differently."""
    worst = 0.0
    for layer, other in zip(sequence["routing"], exact["routing"]):
        for slots, exact_slots, gap in zip(layer["experts"], other["experts"], layer["gaps"]):
            if set(slots) != set(exact_slots):
                worst = max(worst, gap)
    return worst


def make_reference(case, directory):
    model, dtype = score_oracle.load(directory, None)
    higher, _ = score_oracle.load(directory, "float32" if dtype == "bfloat16" else "float64")
    for attempt in range(20):
        sequences, noise, flipped = [], [], 0.0
        for ids in make_tokens(case, attempt):
            sequence, exact = score_oracle.score(model, ids), score_oracle.score(higher, ids)
            noise += deltas(sequence, exact)
            flipped = max(flipped, flipped_gap(sequence, exact))
            if dtype == "bfloat16":
                sequence["logprobs_float32"] = exact["logprobs"]
            sequences.append(sequence)
        gap = min(map(smallest_gap, sequences))
        mean, worst = sum(noise) / len(noise), max(noise)
        spread = torch.tensor([p for s in sequences for p in s["logprobs"][1:]]).std().item()
        print(f"{case.name}: log-prob std {spread:.2f}, noise mean {mean:.2g} max {worst:.2g}, "
              f"smallest gap {gap:.1g}, largest flipped gap {flipped:.2g}", flush=True)
        if dtype == "bfloat16" and mean <= BF16_NOISE_MEAN_MAX and flipped <= BF16_GAP_FLIPPED_MAX:
            break
        if dtype == "float32" and worst <= F32_NOISE_MAX and gap >= GAP_MIN_F32:
            break
    else:
        raise SystemExit(f"{case.name}: rounding noise decides this reference; change its seed or STD")
    document = {"name": case.name, "stored_as": case.dtype} | score_oracle.describe(model, dtype, sequences)
    (directory / "reference.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "checkpoints", help="default: %(default)s")
    parser.add_argument("--only", action="append", metavar="NAME", help="this case; may be given several times")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(case.name for case in CASES))
        return
    unknown = set(arguments.only or []) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; --list names them")

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    score_oracle.patch_transformers()
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        directory = arguments.out / case.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write_checkpoint(case, directory)
        make_reference(case, directory)


if __name__ == "__main__":
    main()
