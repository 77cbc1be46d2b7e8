#!/usr/bin/env python3
"""Writes a random ESFT adapter of a checkpoint of any family: expert_cfg.json, safetensors and an index, as released ones have them.

make_adapter.py CHECKPOINT OUT --seed 1 [--experts some|all|none] [--shared] [--type F32|F16|BF16|mixed] [--prefix] [--stacked]

Of each layer a random subset of experts is replaced, of some layers none. Where the checkpoint has a layer's experts in one tensor the
adapter has a tensor for each expert's share, `..experts.SLOT.gate_up_proj` say; with --stacked one tensor of those that are replaced.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file

from adapter_tensors import load_directory, place_of, share_name

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WEIGHTS = "model-00001-of-000001.safetensors"


def choose(base, experts, ascending, generator):
    """{layer: slots in their order}: at least one slot, if any are to be chosen."""
    slots = {}
    for name, tensor in base.items():
        place = place_of(name)
        if place and not place.shared:
            count = tensor.shape[0] if place.slot is None else place.slot + 1
            slots[place.layer] = max(slots.get(place.layer, 0), count)
    chosen = {}
    for layer, count in sorted(slots.items()):
        take = {"none": 0, "all": count}.get(experts)
        if take is None:
            take = int(torch.randint(count + 1, (), generator=generator))
            if layer == max(slots) and not any(chosen.values()):
                take = max(take, 1)
        chosen[layer] = torch.randperm(count, generator=generator)[:take].tolist()
        if ascending:
            chosen[layer].sort()
    return chosen


def make(base, args):
    """(expert_cfg.json, tensors)."""
    generator = torch.Generator().manual_seed(args.seed)
    chosen = choose(base, args.experts, args.stacked, generator)
    tensors = {}

    def add(name, like, shape):
        kind = list(TYPES.values())[int(torch.randint(3, (), generator=generator))] if args.type == "mixed" else TYPES.get(args.type)
        if kind is None:
            kind = like.dtype if like.dtype in TYPES.values() else torch.bfloat16
        values = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        tensors[name if args.prefix else name.removeprefix("model.")] = values.to(kind)

    for name, tensor in sorted(base.items()):
        place = place_of(name)
        if not place:
            continue
        slots, shape = chosen.get(place.layer, []), list(tensor.shape)
        if place.shared:
            if args.shared:
                add(name, tensor, shape)
        elif place.slot is not None:
            if place.slot in slots:
                add(name, tensor, shape)
        elif args.stacked:
            if slots:
                add(name, tensor, [len(slots), *shape[1:]])
        else:
            for slot in slots:
                add(share_name(name, slot), tensor, shape[1:])
    if not tensors:
        raise SystemExit("nothing would be replaced")
    config = {"experts": {str(layer): slots for layer, slots in chosen.items()}, "shared_experts": args.shared, "non_expert_modules": False}
    return config, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--experts", choices=["some", "all", "none"], default="some", help="of each layer that are replaced")
    parser.add_argument("--shared", action="store_true", help="replace the shared experts too")
    parser.add_argument("--type", choices=[*TYPES, "mixed"], help="of the tensors; without it the checkpoint's")
    parser.add_argument("--prefix", action="store_true", help='begin names with "model.", unlike released adapters')
    parser.add_argument("--stacked", action="store_true")
    args = parser.parse_args()
    config, tensors = make(load_directory(args.checkpoint), args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "expert_cfg.json").write_text(json.dumps(config) + "\n")
    save_file(tensors, args.out / WEIGHTS, {"format": "pt"})
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
             "weight_map": dict.fromkeys(sorted(tensors), WEIGHTS)}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
