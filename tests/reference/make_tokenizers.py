#!/usr/bin/env python3
"""Writes the tokenizers of tests/router/fixtures and the ids that tokenizer_test compares with.

Trained on the strings of tokenizer_oracle.py, so they need no corpus. gpt2: ByteLevel with GPT-2's
pattern. split: a Sequence of Split, Digits and ByteLevel, a template that adds a bos, tokens with and
without stripping, a space run as an added token that is not special.
"""

import argparse
import json
import pathlib

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers)

import tokenizer_oracle

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def train(tokenizer, vocab_size, special):
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=special, show_progress=False)
    strings = tokenizer_oracle.Strings(1, [])
    tokenizer.train_from_iterator((strings.string() for _ in range(3000)), trainer)


def gpt2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tokenizer, 1000, ["<|endoftext|>", "<|user|>", "<|assistant|>"])
    return tokenizer, {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}}


def split():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 600, ["<s>", "</s>"])
    tokenizer.add_special_tokens([AddedToken("<left>", lstrip=True), AddedToken("<both>", lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("  ", normalized=False), AddedToken("<tool>", rstrip=True), AddedToken("<tools>")])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]),
    ])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests" / "router" / "fixtures")
    arguments = parser.parse_args()
    for name, make in (("gpt2", gpt2), ("split", split)):
        directory = arguments.out / name
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer, config = make()
        document = json.loads(tokenizer.to_str())
        (directory / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
        added = [token["content"] for token in document["added_tokens"]]
        short = [line for line in tokenizer_oracle.lines(tokenizer, added, 300, 2) if len(line) < 700]
        (directory / "expected.jsonl").write_text("\n".join(short) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
