#!/usr/bin/env python3
"""Trains the base model for a fixed wall-clock time on one CPU thread and writes it in the published format.

Reads WORK/tokens (see tokenizer.py). Every schedule (learning rate, sequence length, batch) follows the fraction of the time
that has passed, so that a run ends well whatever the machine's speed. One line of JSON per record goes to the log.
"""
import argparse
import json
import pathlib
import time

import numpy as np
import torch

import model as conclave

SHARES = {"general": 0.78, "c": 0.06, "german": 0.07, "man": 0.05, "scripture": 0.04}  # of the tokens trained on
STAGES = [(0.35, 8, 256), (0.65, 16, 256), (0.88, 8, 512), (1.00, 2, 2048)]  # until this fraction: sequences, tokens in each
MUON_RATE, DECAY = 5e-3, 0.1
ADAM_RATES = {"embed_tokens": 1e-2, "lm_head": 3e-3, "gate": 1e-3, "norm": 3e-3}
WARM_UP, FLAT = 0.015, 0.4  # fractions of the time: rates rise, stay, then fall in a straight line to 1 %


class Stream:
    """Windows of one domain's documents in random order, each token once an epoch. (Neighbouring windows in one batch would
    make every batch about one document.)"""

    def __init__(self, ids, seed):
        self.generator = np.random.default_rng(seed)
        documents = np.split(ids, np.flatnonzero(ids == 0)[1:])
        self.ids = np.concatenate([documents[i] for i in self.generator.permutation(len(documents))])
        self.taken, self.count, self.starts = 0, 0, []

    def take(self, count):
        if not self.starts or count != self.count:
            self.count = count
            starts = np.arange(self.generator.integers(count), len(self.ids) - count + 1, count)
            self.starts = self.generator.permutation(starts).tolist()
        start = self.starts.pop()
        self.taken += count
        return self.ids[start:start + count]

    def epochs(self):
        return round(self.taken / len(self.ids), 3)


class Muon:
    """Momentum, then orthogonalised updates for matrices (stacks of them in the last two dimensions); AdamW for the rest."""

    def __init__(self, model, decay=DECAY, only=None):
        """only: {parameter name: rows of its first dimension}, where just these are to be trained."""
        self.decay = decay
        self.matrices, groups = [], []
        for name, p in model.named_parameters():
            kind = name.removesuffix(".weight").split(".")[-1]
            rate = next((r for k, r in ADAM_RATES.items() if kind.endswith(k)), None)
            if not p.requires_grad:
                continue
            if rate is None:
                rows = slice(None) if only is None else only[name]
                self.matrices.append((p, rows, torch.zeros_like(p[rows]), 2 if kind == "gate_up" else 1))
            else:
                groups.append({"params": [p], "lr": rate, "rate": rate})
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0) if groups else None

    @staticmethod
    def orthogonal(g):
        tall = g.shape[-2] > g.shape[-1]
        x = (g.transpose(-1, -2) if tall else g).to(torch.bfloat16)
        x = x / (x.flatten(-2).norm(dim=-1)[..., None, None] + 1e-7)
        for _ in range(5):
            gram = x @ x.transpose(-1, -2)
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x.transpose(-1, -2) if tall else x

    @torch.no_grad()
    def step(self, factor):
        rate = MUON_RATE * factor
        for p, rows, momentum, parts in self.matrices:
            grad = p.grad[rows]
            momentum.mul_(0.95).add_(grad, alpha=0.05)
            update = momentum.mul(0.95).add_(grad, alpha=0.05)
            shape = update.shape
            update = update.view(-1, shape[-2] // parts, shape[-1])
            update = self.orthogonal(update).float().reshape(shape)
            p[rows] = p[rows] * (1 - rate * self.decay) - update * (rate * 0.2 * max(shape[-2] // parts, shape[-1]) ** 0.5)
            p.grad = None
        if self.adam:
            for group in self.adam.param_groups:
                group["lr"] = group["rate"] * factor
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)


@torch.no_grad()
def quick_loss(model, ids, time_steps=512, windows=16):
    ids = torch.from_numpy(ids[:time_steps * windows + 1].astype(np.int64))
    rows = torch.stack([ids[i * time_steps:(i + 1) * time_steps + 1] for i in range((len(ids) - 1) // time_steps)])
    return -model.logprobs(rows).mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="where the trained model is written")
    parser.add_argument("--log", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=51)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    conclave.keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    streams = {d: Stream(np.load(args.work / "tokens" / f"{d}.train.npy"), args.seed) for d in SHARES}
    heldout = {d: np.load(args.work / "tokens" / f"{d}.heldout.npy") for d in SHARES}
    model = conclave.Model(dict(conclave.CONFIG))
    optimizer = Muon(model)
    alpha = model.config["aux_loss_alpha"]
    generator = np.random.default_rng(args.seed)
    args.model.mkdir(parents=True, exist_ok=True)
    log = args.log.open("w")

    def record(**values):
        log.write(json.dumps(values) + "\n")
        log.flush()
        print(json.dumps(values), flush=True)

    record(parameters=sum(p.numel() for p in model.parameters()), shares=SHARES, stages=STAGES, minutes=args.minutes,
           muon_rate=MUON_RATE, adam_rates=ADAM_RATES, seed=args.seed, threads=1, torch=torch.__version__)
    begin, step, tokens, losses, next_check = time.time(), 0, 0, [], 0.05
    drawn = dict.fromkeys(SHARES, 0)
    while True:
        fraction = (time.time() - begin) / (60 * args.minutes)
        if fraction >= next_check or fraction >= 1:
            next_check += 0.1
            record(step=step, tokens=tokens, seconds=round(time.time() - begin),
                   heldout={d: round(quick_loss(model, ids), 4) for d, ids in heldout.items()})
            conclave.save(model, args.model)
        if fraction >= 1:
            break
        rows, length = next((b, t) for until, b, t in STAGES if fraction < until)
        domains = generator.choice(list(SHARES), size=rows, p=list(SHARES.values()))
        batch = np.stack([streams[d].take(length + 1) for d in domains]).astype(np.int64)
        for d in domains:
            drawn[d] += length
        loss = model.loss(torch.from_numpy(batch))
        moes = [m for _, m in model.moes()]
        balance = sum(m.balance for m in moes) / len(moes)
        (loss + alpha * len(moes) * balance).backward()
        factor = min(1.0, fraction / WARM_UP + 0.01, max(0.01, (1 - fraction) / (1 - FLAT)))
        optimizer.step(factor)
        step, tokens = step + 1, tokens + rows * length
        losses.append(loss.item())
        if step % 20 == 0:
            load = max((m.counts.max() / m.counts.float().mean()).item() for m in moes)
            record(step=step, tokens=tokens, seconds=round(time.time() - begin), loss=round(float(np.mean(losses)), 4),
                   rate=round(factor, 3), balance=round(balance.item(), 3), busiest_expert=round(load, 2))
            losses.clear()
    record(step=step, tokens=tokens, seconds=round(time.time() - begin), tokens_per_domain=drawn,
           epochs={d: s.epochs() for d, s in streams.items()})


if __name__ == "__main__":
    main()
