#!/usr/bin/env python3
"""Writes bundled.json: what transformers computes for the bundled model on the beginnings of its held-out texts."""

import json
import pathlib

import torch
from tokenizers import Tokenizer

import score_oracle

HERE = pathlib.Path(__file__).resolve().parent
DEPLOYED = HERE.parents[1] / "deploy/model"
MODEL = DEPLOYED / "conclave-tiny"
TOKENS = {"c": 150, "general": 300, "german": 60, "man": 40, "scripture": 20, "vim": 100}  # prefill chunks are shorter


def main():
    torch.set_num_threads(1)
    score_oracle.patch_transformers()
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    model, dtype = score_oracle.load(MODEL, None)
    sequences = []
    for domain, tokens in TOKENS.items():
        text = (DEPLOYED / "heldout" / f"{domain}.txt").read_text()[: 8 * tokens]
        sequences.append(score_oracle.score(model, tokenizer.encode(text).ids[:tokens]))
        for layer in sequences[-1]["routing"]:
            del layer["weights"]  # nobody compares them
    document = {"name": MODEL.name, "stored_as": "float16"} | score_oracle.describe(model, dtype, sequences)
    (HERE / "bundled.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
