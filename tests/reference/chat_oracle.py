#!/usr/bin/env python3
"""Chats from a seed and what transformers' apply_chat_template renders them to, as JSON lines.

tests/router/chat_compare renders the same chats and reports every difference:

  chat_oracle.py --count 50 --seed 7 --out chats.jsonl     every template in chat_templates/
  chat_oracle.py --snippets --out snippets.jsonl           the template language itself, piece by piece
  chat_compare chats.jsonl snippets.jsonl

Each line: {"template": its text, once for the lines that follow; "variables": what it is rendered with, after transformers
prepared them; "text": what it becomes; absent: it is refused}. The day is 21 January 2025.
"""

import argparse
import contextlib
import datetime
import json
import pathlib
import random
import sys

from transformers.utils import chat_template_utils

from chat_snippets import LAYOUTS, SNIPPETS, VARIABLES

TEMPLATES = pathlib.Path(__file__).resolve().parent / "chat_templates"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

WORDS = ("the a of time world model what is why how please tell me about 42 3.14 naïve café Straße привет мир שלום नमस्ते 你好 世界 "
         "こんにちは 안녕 ﬁne 👍🏽 👩‍👩‍👧 🇩🇪 <b>bold</b> a&b \"quoted\" 'single' back\\slash {{curly}} {%tag%} {#note#} tab\there").split(" ")
SPELLED = ["<|im_start|>", "<|im_end|>", "</s>", "<s>", "[INST]", "[/INST]", "<|eot_id|>", "<think>", "</think>", "<tool_call>",
           "<｜User｜>", "<|start|>", "<|end|>", "<|user|>", "[gMASK]", "<tool_response>", "</tool_response>", "/nothink"]
TYPES = ["string", "integer", "number", "boolean"]


class Day(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 21, 13, 45, 59)


chat_template_utils.datetime = Day


class Chats:
    """Conversations of all kinds that templates tell apart."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self, longest=12):
        r = self.random
        if r.random() < 0.06:
            return r.choice(["", " ", "\n", "  \n "])
        words = [r.choice(SPELLED) if r.random() < 0.08 else r.choice(WORDS) for _ in range(r.randint(1, longest))]
        text = "".join(word + r.choice([" ", " ", " ", "\n", "\n\n", "\t"]) for word in words)
        return text if r.random() < 0.2 else text.strip()

    def content(self):
        """What a user says: mostly a string, else parts, of which not all are text."""
        r = self.random
        if r.random() < 0.94:
            return self.text()
        parts = [{"type": "text", "text": self.text(5)} for _ in range(r.randint(1, 3))]
        return parts + [{"type": "image"}] if r.random() < 0.3 else parts

    def value(self, depth=0):
        r = self.random
        kind = r.randrange(8 if depth < 2 else 6)
        if kind < 3:
            return self.text(4)
        if kind == 3:
            return r.choice([0, 1, -7, 2**40, True, False, None])
        if kind == 4:
            return r.choice([0.5, -1e-7, 1e20, 3.0, 1.1])
        if kind == 5:
            return r.choice([[], {}])
        if kind == 6:
            return [self.value(depth + 1) for _ in range(r.randint(1, 3))]
        return {r.choice(["key", "ключ", "a b", "x\"y"]) + str(i): self.value(depth + 1) for i in range(r.randint(1, 3))}

    def parameter(self, depth=0):
        r = self.random
        kind = r.randrange(7)
        spec = {"type": r.choice(TYPES), "description": self.text(5)}
        if kind == 0:
            spec = {"type": "string", "enum": ["celsius", "kelvin"], "default": "kelvin"}
        elif kind == 1:
            spec = {"type": "array", "items": {"type": r.choice(TYPES)}}
        elif kind == 2 and depth == 0:
            spec = {"type": "object", "properties": {"inner": self.parameter(1), "more": self.parameter(1)}, "required": ["inner"]}
        elif kind == 3:
            spec = {"type": ["string", "null"], "description": "either"}
        elif kind == 4:
            spec = {"oneOf": [{"type": "string", "description": "as text"}, {"type": "number", "default": 1}]}
        elif kind == 5:
            spec["default"] = r.choice(["x", 3, None])
            spec["nullable"] = r.random() < 0.5
        return spec

    def tool(self, index):
        r = self.random
        names = r.sample(["city", "unit", "days", "größe", "flag"], r.randint(0, 4))
        function = {"name": f"{r.choice(['get_weather', 'search', 'run-code'])}_{index}", "description": self.text(8),
                    "parameters": {"type": "object", "properties": {name: self.parameter() for name in names}}}
        if names and r.random() < 0.7:
            function["parameters"]["required"] = names[:1]
        if r.random() < 0.2:
            function["return"] = {"type": "string"}
        return {"type": "function", "function": function}

    def call(self):
        r = self.random
        arguments = {name: self.value() for name in r.sample(["city", "unit", "zahl", "opts"], r.randint(0, 3))}
        if r.random() < 0.1:
            arguments = json.dumps(arguments, ensure_ascii=False)
        call = {"type": "function", "function": {"name": r.choice(["get_weather_0", "search_1"]), "arguments": arguments}}
        if r.random() < 0.9:
            call["id"] = "".join(r.choice("abc123") for _ in range(9 if r.random() < 0.9 else 8))
        return call

    def answer(self, calls):
        r = self.random
        message = {"role": "assistant"}
        if not calls or r.random() < 0.6:
            message["content"] = self.text() if r.random() < 0.97 else None
        if r.random() < 0.2 and message.get("content"):
            message["content"] = f"<think>\n{self.text(5)}\n</think>\n\n{message['content']}"
        if r.random() < 0.25 and not (calls and message.get("content")):
            message[r.choice(["reasoning_content", "thinking", "reasoning"])] = self.text(6)
        if calls:
            message["tool_calls"] = [self.call() for _ in range(1 if r.random() < 0.7 else 2)]
        return message

    def messages(self, with_tools):
        r = self.random
        messages = []
        if r.random() < 0.5:
            messages.append({"role": "system", "content": self.text()})
        for _ in range(r.randint(1, 4)):
            messages.append({"role": "user", "content": self.content()})
            if with_tools and r.random() < 0.6:
                call = self.answer(True)
                messages.append(call)
                for one in call["tool_calls"]:
                    content = self.text() if r.random() < 0.8 else json.dumps(self.value())
                    messages.append({"role": "tool", "content": content, "tool_call_id": one.get("id", "none"),
                                     "name": one["function"]["name"]})
            if r.random() < 0.9:
                messages.append(self.answer(False))
        if r.random() < 0.6 and messages[-1]["role"] == "assistant":
            messages.append({"role": "user", "content": self.text()})
        if r.random() < 0.04:
            messages.append({"role": r.choice(["assistant", "moderator"]), "content": self.text()})
        return messages

    def chat(self):
        r = self.random
        with_tools = r.random() < 0.45
        chat = {"messages": self.messages(with_tools), "tools": None, "documents": None,
                "add_generation_prompt": r.random() < 0.7}
        if with_tools and r.random() < 0.9:
            chat["tools"] = [self.tool(i) for i in range(r.randint(1, 3))]
        if r.random() < 0.2:
            chat["documents"] = [{"title": self.text(3), "text": self.text(20)} for _ in range(r.randint(0, 2))]
        if r.random() < 0.2:
            chat["enable_thinking"] = chat["thinking"] = r.random() < 0.5
        if r.random() < 0.2:
            chat["reasoning_effort"] = r.choice(["low", "high"])
        if r.random() < 0.2:
            chat["tools_in_user_message"] = False
        return chat


def prepared(chat):
    """What transformers hands to the template, as it stands in apply_chat_template and render_jinja_template."""
    messages = [{key: value for key, value in message.items() if value is not None} for message in chat["messages"]]
    return {**SPECIAL, **chat, "messages": chat_template_utils._alias_reasoning_fields(messages)}


def rendered(template, variables):
    """The text, or None: the template refuses."""
    with contextlib.suppress(Exception):
        return chat_template_utils._compile_jinja_template(template).render(**variables)


def lines(template, every):
    for index, variables in enumerate(every):
        line = {"template": template} if index == 0 else {}
        text = rendered(template, variables)
        yield {**line, "variables": variables, **({} if text is None else {"text": text})}


def shapes(count, seed):
    for path in sorted(TEMPLATES.glob("*.jinja")):
        chats = Chats(f"{path.name} {seed}")
        yield from lines(path.read_text(encoding="utf-8"), [prepared(chats.chat()) for _ in range(count)])


def snippets():
    for template in SNIPPETS + LAYOUTS:
        yield from lines(template, [VARIABLES])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="chats for each template")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--snippets", action="store_true")
    parser.add_argument("--out", help="default: standard output")
    arguments = parser.parse_args()
    every = snippets() if arguments.snippets else shapes(arguments.count, arguments.seed)
    with open(arguments.out, "w", encoding="utf-8") if arguments.out else contextlib.nullcontext(sys.stdout) as out:
        for line in every:
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
