#!/usr/bin/env python3
"""Measures the bundled model on its held-out texts: perplexity per token and bits per byte of the base and of each adapter
merged into it, beside `xz -9e` on the same bytes. With --check, compares log-probabilities with transformers first.

A text is cut into windows of --window - 1 tokens, each scored behind one <|endoftext|>; every token counts once. Weights
are those of the files, arithmetic float32.
"""
import argparse
import json
import math
import pathlib
import subprocess

import safetensors.torch
import tokenizers
import torch

import model as conclave


def score(model, ids, window):
    """Sum of log p over the ids."""
    total = 0.0
    for start in range(0, len(ids), window - 1):
        total += model.logprobs(torch.tensor([[0, *ids[start:start + window - 1]]])).sum().item()
    return total


def check(folder, ids):
    """The largest difference to transformers' log-probabilities over one window."""
    import transformers
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[0, *ids]])
    with torch.no_grad():
        theirs = torch.log_softmax(reference(ids).logits[:, :-1], -1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
    ours = conclave.load(folder, torch.float32).logprobs(ids)
    return (ours - theirs).abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = pathlib.Path(__file__).parent
    parser.add_argument("--model", type=pathlib.Path, default=here / "conclave-tiny")
    parser.add_argument("--adapters", type=pathlib.Path, default=here / "adapters")
    parser.add_argument("--heldout", type=pathlib.Path, default=here / "heldout")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--all", action="store_true", help="every adapter on every domain, not only its own")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, help="write the results here as JSON")
    args = parser.parse_args()
    conclave.keep_memory()
    torch.set_num_threads(1)
    tokenizer = tokenizers.Tokenizer.from_file(str(args.model / "tokenizer.json"))
    texts = {p.stem: p.read_text() for p in sorted(args.heldout.glob("*.txt"))}
    ids = {d: tokenizer.encode(t, add_special_tokens=False).ids for d, t in texts.items()}
    results = {"window": args.window, "domains": {}}
    if args.check:
        results["largest_difference_to_transformers"] = check(args.model, ids["c"][:512])
        print("largest difference to transformers:", results["largest_difference_to_transformers"], flush=True)
    variants = {"base": None, **{p.name: p for p in sorted(args.adapters.iterdir())}}
    for variant, folder in variants.items():
        model = conclave.load(args.model, torch.float32)
        if folder:
            conclave.overlay(model, safetensors.torch.load_file(next(folder.glob("*.safetensors"))))
        for domain, text in texts.items():
            if folder and domain != variant and not args.all:
                continue
            size, count = len(text.encode()), len(ids[domain])
            if not folder:
                packed = subprocess.run(["xz", "-9e", "-c"], input=text.encode(), capture_output=True, check=True).stdout
                results["domains"][domain] = {"bytes": size, "tokens": count, "xz_bits_per_byte": round(8 * len(packed) / size, 4)}
            entry = results["domains"][domain]
            nats = -score(model, ids[domain], args.window)
            entry[variant] = {"perplexity": round(math.exp(nats / count), 4),
                              "bits_per_byte": round(nats / math.log(2) / size, 4)}
            print(domain, variant, entry[variant], flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    print("domain      bytes tokens   xz b/B  base b/B  base ppl  adapter ppl  lower by")
    for domain, r in results["domains"].items():
        base, own = r["base"], r.get(domain)
        line = f"{domain:10s} {r['bytes']:6d} {r['tokens']:6d} {r['xz_bits_per_byte']:8.3f} {base['bits_per_byte']:9.3f} {base['perplexity']:9.2f}"
        print(line + (f" {own['perplexity']:12.2f} {1 - own['perplexity'] / base['perplexity']:9.1%}" if own else ""))


if __name__ == "__main__":
    main()
