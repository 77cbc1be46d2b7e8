#!/usr/bin/env python3
"""Writes the checkpoint that an ESFT adapter amounts to: the base's files with the adapter's numbers in place of its own.

merge_adapter.py BASE ADAPTER OUT

Numbers are rounded to the type of what they replace; FP8 experts become experts of the embedding's type. All weights are in one file.
It needs torch and safetensors and shares no code with Conclave, so that what it writes can be compared with what Conclave serves.
"""

import argparse
import pathlib
import shutil

from safetensors.torch import save_file

from adapter_tensors import FACTORS, load_adapter, load_directory, place_of, share_name

TYPES = ("torch.float32", "torch.float16", "torch.bfloat16")


def merge(base, config, adapter):
    """The base's tensors with the adapter's in them; every tensor of the adapter is used."""
    merged = dict(base)
    model_type = base["model.embed_tokens.weight" if "model.embed_tokens.weight" in base else "lm_head.weight"].dtype
    left = dict(adapter)
    for name, old in base.items():
        place = place_of(name)
        if not place:
            continue
        slots = config["experts"].get(str(place.layer), [])
        if place.shared or place.slot is not None:
            if name in left:
                merged[name] = left.pop(name).to(old.dtype if str(old.dtype) in TYPES else model_type).contiguous()
                merged.pop(name + FACTORS, None)
            elif config.get("shared_experts", False) if place.shared else place.slot in slots:
                raise SystemExit(f"{name}: expert_cfg.json names its expert, the adapter lacks it")
        elif slots:
            shares = left.pop(name) if name in left else [left.pop(share_name(name, slot)) for slot in slots]
            merged[name] = old.clone()
            for slot, share in zip(slots, shares, strict=True):
                merged[name][slot] = share.to(old.dtype)
    if left:
        raise SystemExit(f"the checkpoint has no place for {', '.join(sorted(left))}")
    return merged


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("adapter", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    for file in args.base.iterdir():
        if file.is_file() and ".safetensors" not in file.name:
            shutil.copy(file, args.out)
    save_file(merge(load_directory(args.base), *load_adapter(args.adapter)), args.out / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
