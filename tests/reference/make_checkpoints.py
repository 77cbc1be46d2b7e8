#!/usr/bin/env python3
"""Writes the tiny random checkpoints of tests/reference/checkpoints with their reference outputs.

Each case of families/*.py is a directory NAME/ with config.json, safetensors and reference.json, computed
by transformers with the changes that the family's module lists. README.md has the format.

A reference is only worth comparing with if rounding cannot decide it, so the script checks, and stops
otherwise: F32 against a float64 run, BF16 against a float32 run of the same weights, and that no
F32 routing choice is closer than GAP_MIN_F32.
"""

import argparse
import json
import math
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import load_file

import score_oracle
from families import FAMILIES, patch_transformers

HERE = pathlib.Path(__file__).resolve().parent

# A case is refused if its own rounding noise comes near the tolerances of the comparison
# (F32 max 1e-3, BF16 mean 0.02, BF16 routing gap 1e-2).
F32_NOISE_MAX = 1e-4
BF16_NOISE_MEAN_MAX = 0.009
BF16_GAP_FLIPPED_MAX = 0.004
GAP_MIN_F32 = 3e-6


CASES = [(family, case) for family in FAMILIES.values() for case in family.CASES]

# Standard deviation of a weight, times 1/sqrt(inputs) except for embed_tokens. F32: large, so that routing
# and log-probabilities are far from uniform and a wrong term shows. BF16: so much smaller that rounding,
# and the other expert that rounding may choose, stay below the tolerance.
STD = {
    "float32": dict(embed_tokens=1.0, attention=1.2, gate=2.5, experts=1.6, mlp=1.3, lm_head=1.6, norm=0.15, gate_bias=0.2),
    "bfloat16": dict(embed_tokens=2.0, attention=0.8, gate=1.8, experts=0.6, mlp=0.8, lm_head=1.0, norm=0.15, gate_bias=0.2),
}
STD["float16"] = STD["float32"]


def kind_of(name):
    """Which entry of STD a weight belongs to."""
    return next(
        kind for kind, part in (
            ("norm", "norm"), ("embed_tokens", "embed_tokens"), ("lm_head", "lm_head"), ("attention", "self_attn"),
            ("gate_bias", "e_score_correction_bias"), ("gate", "mlp.gate.weight"), ("experts", "mlp.experts"),
            ("mlp", "mlp"),
        ) if part in name
    )


def randomise(model, case):
    """Fills every weight from the case's seed; norms around 1, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(1000 + case.seed)
    std = STD[case.dtype] | case.scale
    biases = [(name, one) for name, one in model.named_buffers() if name.endswith("e_score_correction_bias")]
    for name, weight in sorted(list(model.named_parameters()) + biases):
        values = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
        kind = kind_of(name)
        if kind == "norm":
            values = 1.0 + std["norm"] * values
        elif kind == "gate_bias":
            values *= std["gate_bias"]
        elif kind == "embed_tokens":
            values *= std["lm_head"] / math.sqrt(weight.shape[-1]) if case.config.get("tie_word_embeddings") else (
                std["embed_tokens"])
        else:
            values *= std[kind] / math.sqrt(weight.shape[-1])
        with torch.no_grad():
            weight.copy_(values)


def publish_config(path, family, case):
    """Rewrites the config.json of transformers 5 to the keys of the published checkpoints."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = case.config.get("rope_scaling")
    config["torch_dtype"] = config.pop("dtype")
    if "quantization_config" in case.config:
        config["quantization_config"] = case.config["quantization_config"]
    if hasattr(family, "publish"):
        family.publish(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_checkpoint(family, case, directory):
    if hasattr(family, "write"):
        family.write(case, directory, randomise)
    else:
        write_with_transformers(family, case, directory)
    check_layout(case, directory)


def write_with_transformers(family, case, directory):
    plain = {key: value for key, value in case.config.items() if key != "quantization_config"}
    config = transformers.AutoConfig.for_model(
        family.MODEL_TYPE, **json.loads(json.dumps(plain)), attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomise(model, case)
    model.to(getattr(torch, case.dtype))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # published in F32 whatever the weights are
            buffer.data = buffer.data.float()
    model.save_pretrained(
        directory, max_shard_size=case.max_shard_size, save_original_format=not case.fused_experts)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if case.published_config:
        publish_config(directory / "config.json", family, case)
    if hasattr(family, "finish"):
        family.finish(case, directory)


def check_layout(case, directory):
    """transformers holds a layer's experts in one tensor; published are tensors for each expert."""
    keys = [key for file in sorted(directory.glob("*.safetensors")) for key in load_file(file)]
    assert any(".experts.0." in key for key in keys) != case.fused_experts, keys
    assert any(key.endswith("experts.gate_up_proj") for key in keys) == case.fused_experts, keys


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
        print("\n".join(case.name for _, case in CASES))
        return
    unknown = set(arguments.only or []) - {case.name for _, case in CASES}
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; --list names them")

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    patch_transformers()
    for family, case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        directory = arguments.out / case.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write_checkpoint(family, case, directory)
        make_reference(case, directory)


if __name__ == "__main__":
    main()
