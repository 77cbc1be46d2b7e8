#!/usr/bin/env python3
"""Makes the ESFT adapters of the bundled model: score the experts on a domain, pick per layer until the cumulative token
score reaches p, train only those, write the released file format.

Token score of an expert: the share of a layer's selections (tokens x top-k) that fall on it. Reads WORK/tokens.
"""
import argparse
import json
import pathlib
import time

import numpy as np
import safetensors.torch
import torch

import model as conclave
import train

PREFIX = {"german": "model."}  # released adapters leave the prefix out; one here has it, since both occur
RATE = 0.6  # of the base run's peak
SEQUENCES, LENGTH = 8, 512


@torch.no_grad()
def scores(model, stream, windows=256):
    """{layer: token score of every expert}, from windows * LENGTH tokens of the domain's training text."""
    total = {layer: torch.zeros(len(moe.down)) for layer, moe in model.moes()}
    for _ in range(windows // SEQUENCES):
        model.hidden(torch.from_numpy(np.stack([stream.take(LENGTH) for _ in range(SEQUENCES)]).astype(np.int64)))
        for layer, moe in model.moes():
            total[layer] += moe.counts
    return {layer: t / t.sum() for layer, t in total.items()}


def pick(score, p):
    """Experts by descending score until their sum is at least p."""
    order = torch.argsort(score, descending=True, stable=True)
    count = int((score[order].cumsum(0) < p).sum()) + 1
    return order[:count].tolist()


def make(domain, args, log):
    base = conclave.load(args.model)
    model = conclave.load(args.model)
    stream = train.Stream(np.load(args.work / "tokens" / f"{domain}.train.npy"), args.seed + 1)
    heldout = np.load(args.work / "tokens" / f"{domain}.heldout.npy")
    score = scores(model, stream)
    experts = {layer: pick(s, args.p) for layer, s in score.items()}
    for p in model.parameters():
        p.requires_grad_(False)
    for layer, moe in model.moes():
        moe.trained = set(experts[layer])
        moe.gate_up.requires_grad_()
        moe.down.requires_grad_()
    optimizer = train.Muon(model, decay=0.0, only={f"layers.{layer}.mlp.{name}": ids for layer, ids in experts.items()
                                                   for name in ("gate_up", "down")})

    def record(**values):
        line = json.dumps({"adapter": domain, **values})
        log.write(line + "\n")
        log.flush()
        print(line, flush=True)

    record(experts=experts, mass={layer: round(score[layer][ids].sum().item(), 4) for layer, ids in experts.items()},
           heldout=round(train.quick_loss(model, heldout), 4))
    begin, step, losses = time.time(), 0, []
    while (fraction := (time.time() - begin) / (60 * args.minutes)) < 1:
        batch = np.stack([stream.take(LENGTH + 1) for _ in range(SEQUENCES)]).astype(np.int64)
        loss = model.loss(torch.from_numpy(batch))
        loss.backward()
        optimizer.step(RATE * min(1.0, fraction / 0.05 + 0.05, 1 - fraction))
        step += 1
        losses.append(loss.item())
        if step % 20 == 0:
            record(step=step, tokens=step * SEQUENCES * LENGTH, seconds=round(time.time() - begin),
                   loss=round(float(np.mean(losses)), 4))
            losses.clear()
    record(step=step, tokens=step * SEQUENCES * LENGTH, seconds=round(time.time() - begin),
           epochs=stream.epochs(), heldout=round(train.quick_loss(model, heldout), 4))

    tuned = {k: v.to(torch.bfloat16).to(torch.float16).contiguous() for layer, ids in experts.items() for e in ids
             for k, v in conclave.expert_tensors(model, layer, e, PREFIX.get(domain, "")).items()}
    names = {"model." + k.removeprefix("model.") for k in tuned}
    before, after = conclave.tensors(base), conclave.tensors(model)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == names, f"{len(changed ^ names)} tensors differ from the list of tuned ones"
    folder = args.adapters / domain
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "expert_cfg.json").write_text(json.dumps({
        "experts": {str(layer): ids for layer, ids in experts.items()}, "shared_experts": False,
        "non_expert_modules": False}) + "\n")
    file = "model-00001-of-000001.safetensors"
    safetensors.torch.save_file(tuned, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({
        "metadata": {"total_size": sum(v.numel() * 2 for v in tuned.values())},
        "weight_map": dict.fromkeys(sorted(tuned), file)}, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the trained base model")
    parser.add_argument("--adapters", type=pathlib.Path, required=True, help="where the adapters' folders are written")
    parser.add_argument("--log", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.5, help="training time of each adapter")
    parser.add_argument("--p", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("domains", nargs="*", default=["c", "scripture", "vim", "german"])
    args = parser.parse_args()
    conclave.keep_memory()
    torch.set_num_threads(1)
    with args.log.open("a") as log:
        for domain in args.domains:
            torch.manual_seed(args.seed)
            make(domain, args, log)


if __name__ == "__main__":
    main()
