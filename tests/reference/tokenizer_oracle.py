#!/usr/bin/env python3
"""Strings from a seed and the ids that Hugging Face's tokenizers gives them, as JSON lines.

tests/router/tokenizer_compare encodes the same strings and reports every difference:

  tokenizer_oracle.py DIR --count 10000 --seed 7 --out strings.jsonl
  tokenizer_compare DIR strings.jsonl

Each line: {"text", "ids": special tokens' texts taken as text, nothing added,
            "ids_special": special tokens parsed, the post_processor's tokens added,
            "decoded": what ids decode to, only where that is not text,
            "decoded_special": what ids_special decode to without special tokens, only where that is not text}
"""

import argparse
import json
import os
import pathlib
import random
import sys

WORDS = (
    "the of and to in is was for that it with as his on be at by had not are but from or have an they "
    "which one you were her all she there would their we him been has when who will more no if out so "
    "Hello World tokenizer expert gate routing step worker placement résumé naïve café Straße "
    "Ünïcödé größer año señor été cœur garçon łódź żółć příliš žluťoučký İstanbul ığdır "
    "привет мир это не так быстро Ελλάδα φιλοσοφία שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก "
    "你好 世界 機械学習 深層学習 こんにちは カタカナ 안녕하세요 세계 ﬁne ﬀ Ⅷ ½ ² ٣٤٥ १२३ ៥ ⅷ 𝟘𝟙 𝓗𝓮𝓵𝓵𝓸"
).split()
CONTRACTIONS = "I'm you're he's we've they'll I'd don't can't 'tis rock'n'roll O'Neil IT'S 'S 'Ll ''s 'd've ’s".split()
EMOJI = "😀 🚀 👍🏽 👩‍👩‍👧‍👦 🇩🇪🇯🇵 ❤️ ☕ ✅ ™ © ☃️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿".split()
# First and last letter of a run of every script's block: strings mix neighbours, as text does.
SCRIPTS = (
    "AZ az Àÿ Āſ Ḁỹ Ωω Αώ Ѐӿ Աև את ءي ܐܬ ހޥ ߀ߪ ऀॿ অৰ ਅੴ અૹ ଅୱ அௐ అౡ ಅೡ അൿ අෆ กฺ ກໝ ༀཬ ကဿ Ⴀჿ ᄀᇿ ሀፚ Ꭰᏼ ᐁᙿ ᚁᚚ ᚠᛪ កឳ ᠠᡷ ᥐᥭ ᨀᨖ ᬅᬳ ᰀᰣ "
    "ⰀⱞⲀⳮ ⴰⵧ ぁゖ ァヺ ㄅㄯ ㄱㆎ 一龥 㐀䶵 ꀀꒌ ꔀꘟ ꡀꡳ 가힣 \uf900\ufa6d ﬀﬆ ﭐﷻ ！～ ｦﾟ 𐀀𐁝 𐌰𐍊 𐐀𐑏 𐤀𐤕 𐬀𐬵 𑀅𑁯 𑄃𑄦 𒀀𒍮 𓀀𓐮 𖠀𖨸 𖼀𖽊 𛀀𛂿 𝐀𝟿 𞤀𞥃 𠀀𪛖"
).split()
CONTROLS = [chr(c) for c in (*range(0x20), 0x7F, *range(0x80, 0xA0), 0xAD, 0x200E, 0x202E, 0x2066, 0xFFF9, 0xE0001)]
# A word begins with this in a vocabulary like SentencePiece's, and a byte looks like that.
SPELLED_OUT = ("\u2581", "\u2581\u2581", " \u2581a", "<0x41>", "<0xE4>", "<unk>", "Ġ", "Ċ")
CODE = (
    "int main() { return 0; }", "for (auto& x : xs) sum += x;", "if x == 0:\n    return None\n",
    "\t\t<div class=\"a-b_c\">&nbsp;</div>", "SELECT * FROM t WHERE a>=1 AND b!='x';", "#include <vector>",
    "fn f<'a>(x: &'a str) -> usize { x.len() }", "a[i++] ^= ~(b << 3) | 0xFF;", "$HOME/bin:/usr/bin --flag=1",
    "{\"k\": [1, 2.5e-3, null]}", "// TODO(x): ...\r\n", "x = y if z else -w  # why?",
)
SPACES = (" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\u1680",
          "\u180e", "\u200b", "\u200d", "\ufeff", "\x0b", "\x0c", "\x1c", "\x1f")


class Strings:
    def __init__(self, seed, added):
        self.random = random.Random(seed)
        self.added = added or ["<|none|>"]

    def code_point(self):
        while True:
            limit = self.random.choice((0x80, 0x100, 0x800, 0x3000, 0x10000, 0x20000, 0x110000))
            c = self.random.randrange(limit)
            if not 0xD800 <= c <= 0xDFFF:
                return chr(c)

    def piece(self):
        r = self.random
        kind = r.randrange(16)
        if kind <= 3:
            return r.choice((" ", "", " ", "  ")) + r.choice(WORDS)
        if kind == 4:
            return r.choice(SPACES) * r.choice((1, 1, 2, 3, 17))
        if kind == 5:
            return r.choice((" ", "")) + str(r.randrange(10 ** r.randrange(1, 12)))
        if kind == 6:
            return r.choice(CONTRACTIONS)
        if kind == 7:
            return r.choice(EMOJI)
        if kind == 8:
            return r.choice(CODE)
        if kind == 9:
            return "".join(self.code_point() for _ in range(r.randrange(1, 8)))
        if kind == 10:
            return r.choice((" ", "")) + "".join(r.choice("!?.,;:-_=+*/\\'\"()[]{}<>|@#$%^&~`") for _ in range(r.randrange(1, 9)))
        if kind == 11:
            base = r.choice("aeiouAnñк가か")
            return base + "".join(r.choice("\u0300\u0301\u0308\u0327\u0338\u3099\u200d\ufe0f\u0e31") for _ in range(r.randrange(1, 4)))
        if kind == 12:
            first, last = sorted(map(ord, r.choice(SCRIPTS)[:2]))
            return r.choice(("", " ")) + "".join(chr(r.randint(first, last)) for _ in range(r.randrange(1, 12)))
        if kind == 13:
            return r.choice(CONTROLS) * r.choice((1, 1, 2, 5)) + r.choice(("", "a", " "))
        if kind == 14:
            return r.choice(SPELLED_OUT) + r.choice(("", "b", " ", "  "))
        added = r.choice(self.added)
        return r.choice(("a" + added, added + "b", added + " ", " " + added) if r.randrange(4) == 0 else (added, added, " " + added + " ", added[:-1], added.upper(), "\n" + added + added))

    def string(self):
        r = self.random
        if r.randrange(50) == 0:
            return r.choice(WORDS + list(SPACES) + list("aé你😀'")) * r.randrange(1, 400)
        return "".join(self.piece() for _ in range(r.choice((0, 1, 1, 2, 3, 5, 8, 13, 30))))


def load(directory):
    """The tokenizer, and the texts of its added tokens.

    add_bos_token and add_eos_token of tokenizer_config.json count unless tokenizer.json has a template of
    its own: transformers 4 does so for Llama's tokenizers, transformers 5 drops both keys.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer, processors

    text = (directory / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(text)
    config_file = directory / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
    if '"TemplateProcessing"' not in text:
        ends = {}
        for end in ("bos", "eos"):
            token = config.get(f"{end}_token")
            token = token["content"] if isinstance(token, dict) else token
            if token is not None and config.get(f"add_{end}_token"):
                ends[end] = token
        template = [*([ends["bos"]] if "bos" in ends else []), "$A", *([ends["eos"]] if "eos" in ends else [])]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(token, tokenizer.token_to_id(token)) for token in set(ends.values())]
        )
    return tokenizer, [token["content"] for token in json.loads(text).get("added_tokens", [])]


def encode(tokenizer, text, special):
    tokenizer.encode_special_tokens = not special
    return tokenizer.encode(text, add_special_tokens=special).ids


def lines(tokenizer, added, count, seed):
    strings = Strings(seed, added)
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for _ in range(count):
        text = strings.string()
        line = {"text": text, "ids": encode(tokenizer, text, False), "ids_special": encode(tokenizer, text, True)}
        decoded = tokenizer.decode(line["ids"], skip_special_tokens=False)
        if decoded != text:
            line["decoded"] = decoded
        # Not skip_special_tokens: tokenizers 0.23 forgets a special token that its normalizer changes.
        decoded = tokenizer.decode([i for i in line["ids_special"] if i not in special], skip_special_tokens=False)
        if decoded != text:
            line["decoded_special"] = decoded
        yield json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path, help="with tokenizer.json")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="default: standard output")
    arguments = parser.parse_args()

    tokenizer, added = load(arguments.directory)
    with open(arguments.out, "w", encoding="utf-8") if arguments.out else sys.stdout as out:
        for line in lines(tokenizer, added, arguments.count, arguments.seed):
            out.write(line + "\n")


if __name__ == "__main__":
    main()
