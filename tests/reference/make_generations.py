#!/usr/bin/env python3
"""Writes generations.json: what checkpoints of this folder generate greedily under each option that
changes logits, by transformers' own processors in the order in which its generate applies them.
Presence and frequency penalties, which it lacks, are as OpenAI documents them.

A prompt counts only if at every step the winner leads by far more than roundings differ.
"""

import json
import pathlib

import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    LogitsProcessor, MinNewTokensLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor)

from families import patch_transformers
from score_oracle import load

HERE = pathlib.Path(__file__).parent
CHECKPOINTS = ["mixtral-plain", "qwen2-moe-sparse", "qwen3-moe-yarn", "deepseek-v2-greedy", "deepseek-v3-plain", "olmoe-plain", "gpt-oss-plain"]
TOKENS = 24
LEAD = 0.01  # of the greatest logit over the next; log-probabilities agree to 0.001

OPTIONS = [
    {},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"presence_penalty": 0.9},
    {"frequency_penalty": 0.4},
    {"presence_penalty": -0.5, "frequency_penalty": 0.3},
    {"logit_bias": {"3": 2.5, "17": -100.0, "40": 1.0}},
    {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2, "logit_bias": {"5": 1.5, "9": -2.0}},
    {"stop_from_plain": 3, "min_tokens": 0},
    {"stop_from_plain": 3, "min_tokens": 10},
]


class PresenceAndFrequency(LogitsProcessor):
    def __init__(self, prompt_length, presence, frequency):
        self.prompt_length, self.presence, self.frequency = prompt_length, presence, frequency

    def __call__(self, input_ids, scores):
        counts = torch.bincount(input_ids[0, self.prompt_length:], minlength=scores.shape[-1])
        return scores - self.frequency * counts - self.presence * (counts > 0)


def processors(options, prompt_length, stops):
    made = LogitsProcessorList()
    if "logit_bias" in options:
        made.append(SequenceBiasLogitsProcessor([[[int(token)], bias] for token, bias in options["logit_bias"].items()]))
    if "repetition_penalty" in options:
        made.append(RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    made.append(PresenceAndFrequency(prompt_length, options.get("presence_penalty", 0.0), options.get("frequency_penalty", 0.0)))
    if stops and options["min_tokens"]:
        made.append(MinNewTokensLengthLogitsProcessor(prompt_length, options["min_tokens"], stops))
    return made


def generate(model, prompt, options, stops):
    """The tokens, and the least lead of any of them."""
    ids = torch.tensor([prompt])
    processor = processors(options, len(prompt), stops)
    least = float("inf")
    for _ in range(TOKENS):
        with torch.no_grad():
            scores = processor(ids, model(ids).logits[:, -1, :].float())
        best, second = torch.topk(scores[0], 2).values.tolist()
        least = min(least, best - second)
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
        if int(ids[0, -1]) in stops:
            break
    return ids[0, len(prompt):].tolist(), least


def cases(name):
    model, dtype = load(HERE / "checkpoints" / name, None)
    vocabulary = model.config.vocab_size
    for number, options in enumerate(OPTIONS):
        for attempt in range(200):
            chance = torch.Generator().manual_seed(1000 * number + attempt)
            prompt = torch.randint(vocabulary, (int(torch.randint(3, 40, (1,), generator=chance)),), generator=chance).tolist()
            stops = []
            if "stop_from_plain" in options:
                stops = [generate(model, prompt, {}, [])[0][options["stop_from_plain"]]]
            tokens, lead = generate(model, prompt, options, stops)
            if lead >= LEAD:
                break
        else:
            raise SystemExit(f"{name}: no prompt is clear under {options}")
        asked = {key: value for key, value in options.items() if key != "stop_from_plain"}
        yield {"checkpoint": name, "prompt": prompt, **asked, "stop_tokens": stops, "tokens": tokens}


def main():
    patch_transformers()
    rows = [json.dumps(row) for name in CHECKPOINTS for row in cases(name)]
    (HERE / "generations.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
