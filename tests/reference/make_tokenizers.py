#!/usr/bin/env python3
"""Trains tokenizers in the shape of the families' own and writes them as directories with tokenizer.json.

With --expected N each directory gets expected.jsonl: the ids that Hugging Face's tokenizers gives N strings, and what they
decode to (tokenizer_oracle.py). The committed fixtures of tests/router are `make_tokenizers.py --only gpt2 split llama2 metaspace
--out tests/router/fixtures --expected 300`.

Trained on the strings of tokenizer_oracle.py, so they need no corpus. Every one but gpt2 has added tokens of every flag.
"""

import argparse
import json
import pathlib

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)

import tokenizer_oracle

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{CONTRACTIONS}?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
POSSESSIVE = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
              r"\s+(?!\S)|\s")
DEEPSEEK_V3 = (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
               r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
               r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
DEEPSEEK_V2 = (r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶ-ͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽḀ-ἕⰀ-ⱻꙀ-ꙭﬀ-ﬆＡ-Ｚａ-ｚ𐐀-𐑏]+",
               r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+")


def train(tokenizer, vocab_size, special, alphabet=pre_tokenizers.ByteLevel.alphabet(), alphabet_max=256):
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, limit_alphabet=alphabet_max, special_tokens=special,
                                  show_progress=False)
    strings = tokenizer_oracle.Strings(1, [])
    tokenizer.train_from_iterator((strings.string() for _ in range(3000)), trainer)


def add_tokens(tokenizer):
    """Tokens of every flag; some begin others."""
    tokenizer.add_special_tokens([AddedToken("<left>", lstrip=True), AddedToken("<both>", lstrip=True, rstrip=True),
                                  AddedToken("<|im_end|>"), AddedToken("<|word|>", single_word=True), AddedToken("<Ünï>", normalized=True)])
    tokenizer.add_tokens([AddedToken("  ", normalized=False), AddedToken("<tool>", rstrip=True), AddedToken("<tools>"),
                          AddedToken("gate", single_word=True), AddedToken("Éж", normalized=True), AddedToken("ſtep", normalized=False),
                          AddedToken("ROUTING", normalized=True, single_word=True, lstrip=True, rstrip=True)])


def byte_level(stages, vocab_size=600, special=("<s>", "</s>"), normalizer=None, ignore_merges=False, template=True, prefix=False, regex=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*stages, last]) if stages else last
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, vocab_size, list(special))
    add_tokens(tokenizer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if template:
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(f"{special[0]} $A", special_tokens=[(special[0], tokenizer.token_to_id(special[0]))]),
        ])
    return tokenizer, {"bos_token": special[0], "eos_token": special[-1], "add_bos_token": False}


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def gpt2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tokenizer, 1000, ["<|endoftext|>", "<|user|>", "<|assistant|>"])
    return tokenizer, {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}}


def characters(normalizer, pre_tokenizer, decoder, fallback=True, unknown="<unk>", fuse=True, trained_on=None):
    """A vocabulary of characters, as SentencePiece's converted to tokenizer.json."""
    special = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer or normalizers.Sequence([])
    trained.pre_tokenizer = trained_on or pre_tokenizers.Metaspace()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    # Rare characters become bytes or the unknown token.
    train(trained, len(special) + len(bytes_) + 600, [*special, *bytes_], alphabet=["▁"], alphabet_max=150)
    model = json.loads(trained.to_str())["model"]
    # The text of a byte's token must not become that token: published vocabularies have no merges that lead there.
    kept, merges = list(model["vocab"]), [tuple(pair) for pair in model["merges"] if "".join(pair) not in bytes_]
    # Runs of spaces are tokens of their own.
    for run in (2, 4, 8):
        kept += ["▁" * run] * ("▁" * run not in kept)
        merges += [("▁" * (run // 2),) * 2] * (("▁" * (run // 2),) * 2 not in merges)
    model = models.BPE({token: i for i, token in enumerate(kept)}, merges, byte_fallback=fallback, unk_token=unknown, fuse_unk=fuse)
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(special)
    add_tokens(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>"}


def spaces_back(strip=True):
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))


def llama2():
    return characters(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, spaces_back())


FAMILIES = {
    "gpt2": gpt2,
    "split": lambda: byte_level([split(LLAMA3), pre_tokenizers.Digits(individual_digits=True)], ignore_merges=True),
    "llama3": lambda: byte_level([split(LLAMA3)], ignore_merges=True),
    "qwen2": lambda: byte_level([split(QWEN2)], normalizer=normalizers.NFC(), template=False),
    "deepseek-v2": lambda: byte_level([*map(split, DEEPSEEK_V2), pre_tokenizers.Digits(individual_digits=True)],
                                      normalizer=normalizers.Sequence([])),
    "deepseek-v3": lambda: byte_level([*map(split, DEEPSEEK_V3)], special=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")),
    "gpt-oss": lambda: byte_level([split(O200K)], template=False, special=("<|startoftext|>", "<|return|>")),
    "glm": lambda: byte_level([split(LLAMA3, "removed", invert=True)], template=False, special=("[gMASK]", "<sop>", "<|endoftext|>")),
    "possessive": lambda: byte_level([split(POSSESSIVE)], template=False),
    "prefix": lambda: byte_level([], prefix=True, regex=True, normalizer=normalizers.NFKC()),
    "llama2": llama2,
    "metaspace": lambda: characters(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), spaces_back()),
    "metaspace-always": lambda: characters(normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace(), fallback=False, fuse=False),
    "metaspace-never": lambda: characters(None, pre_tokenizers.Metaspace(prepend_scheme="never"), decoders.Metaspace(prepend_scheme="never"),
                                          fallback=False),
    "no-unknown": lambda: characters(normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase(), normalizers.Strip()]),
                                     pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(), pre_tokenizers.Metaspace()]),
                                     spaces_back(strip=False), fallback=False, unknown=None),
    "replacing": lambda: characters(normalizers.Sequence([normalizers.NFD(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Replace("``", '"')]),
                                    pre_tokenizers.Sequence([split("[.,;]+", "merged_with_previous"), split(r"[(\[]", "merged_with_next"),
                                                             split(r"\d", "contiguous"), pre_tokenizers.Metaspace()]),
                                    decoders.Sequence([decoders.Replace(Regex("▁+"), " "), decoders.ByteFallback(), decoders.Fuse(),
                                                       decoders.Strip(" ", 2, 0)])),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--expected", type=int, metavar="N", help="also write expected.jsonl, of N strings of at most 700 characters")
    arguments = parser.parse_args()
    for name in arguments.only:
        directory = arguments.out / name
        directory.mkdir(parents=True, exist_ok=True)
        tokenizer, config = FAMILIES[name]()
        document = json.loads(tokenizer.to_str())
        (directory / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if arguments.expected:
            added = [token["content"] for token in document["added_tokens"]]
            short = [line for line in tokenizer_oracle.lines(tokenizer, added, arguments.expected, 2) if len(line) < 700]
            (directory / "expected.jsonl").write_text("\n".join(short) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
