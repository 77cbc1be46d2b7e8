#!/usr/bin/env python3
"""Trains the byte-level BPE tokenizer on the corpus, writes it beside the model, and stores every text as token ids.

Reads WORK/text (see corpus.py); writes tokenizer.json, tokenizer_config.json and generation_config.json into MODEL and
WORK/tokens/DOMAIN.{train,heldout}.npy (uint16, each document preceded by <|endoftext|>).
"""
import argparse
import json
import pathlib
import random

import numpy as np
import tokenizers

VOCABULARY = 4096
SPECIAL = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"]  # ids 0 to 3
SAMPLE_BYTES = {"general": 24_000_000, "vim": 0}  # text the merges are learned from; 4 MB of each other domain
CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")


def documents(path):
    return path.read_text().split("\x00")


def learn(text):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())

    def sample():
        for path in sorted(text.glob("*.train.txt")):
            budget = SAMPLE_BYTES.get(path.name.split(".")[0], 4_000_000)
            for document in documents(path):
                budget -= len(document)
                if budget < 0:
                    break
                yield document

    tokenizer.train_from_iterator(sample(), trainer)
    return tokenizer


def encode(tokenizer, texts, chat):
    """Token ids of the documents; a few (share `chat`) are set as a turn and its answer, so that the turn tokens
    have a meaning: what follows <|assistant|> continues what followed <|user|>."""
    generator = random.Random(1)
    out = []
    for start in range(0, len(texts), 512):
        for encoding in tokenizer.encode_batch(texts[start:start + 512], add_special_tokens=False):
            ids = encoding.ids
            if generator.random() < chat and len(ids) > 64:
                turn = generator.randrange(8, min(len(ids) // 2, 256))
                ids = [SPECIAL.index("<|user|>"), *ids[:turn], SPECIAL.index("<|assistant|>"), *ids[turn:]]
            out.append(np.array([0, *ids], dtype=np.uint16))
    return np.concatenate(out)


def begin_with_end_of_text(tokenizer):
    """A text begins as documents did in training: what tokenizer_config.json's add_bos_token says, for whoever reads
    tokenizer.json alone."""
    end = SPECIAL[0]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{end} $A", pair=f"{end} $A {end} $B", special_tokens=[(end, 0)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.model.mkdir(parents=True, exist_ok=True)
    tokens = args.work / "tokens"
    tokens.mkdir(exist_ok=True)
    tokenizer = learn(args.work / "text")
    begin_with_end_of_text(tokenizer)
    tokenizer.save(str(args.model / "tokenizer.json"))
    (args.model / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False, "add_bos_token": True,
        "add_eos_token": False, "bos_token": SPECIAL[0], "eos_token": SPECIAL[0], "pad_token": SPECIAL[0],
        "model_max_length": 2048, "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE}, indent=2) + "\n")
    (args.model / "generation_config.json").write_text(json.dumps({
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "do_sample": True, "temperature": 0.7,
        "top_p": 0.95}, indent=2) + "\n")
    for path in sorted((args.work / "text").glob("*.txt")):
        texts = documents(path)
        ids = encode(tokenizer, texts, 0.04 if ".train." in path.name else 0)
        np.save(tokens / (path.stem + ".npy"), ids)
        size = sum(len(t.encode()) for t in texts)
        print(f"{path.stem}: {len(ids)} tokens, {size / len(ids):.2f} bytes/token", flush=True)


if __name__ == "__main__":
    main()
