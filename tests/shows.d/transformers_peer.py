"""A checkpoint computed by transformers on PyTorch's CPU, for tests/shows.d/peers.py. Arguments: CHECKPOINT THREADS EXPERTS, the
last one saying how experts are computed; then a line for each question on standard input, and its seconds as a line. Runs in the
peers' environment."""

import random
import sys
import time

import torch
import transformers

checkpoint, threads, experts = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(threads)
torch.set_grad_enabled(False)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, experts_implementation=experts)
model.eval()
vocab = model.config.vocab_size
chance = random.Random(1)


def prompt(length):
    return torch.tensor([[chance.randrange(300, vocab) for _ in range(length)]])


def step(ids, cache):
    """The next token, as a server has it: of the last position alone."""
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values


def prefill(length):
    ids = prompt(length)
    began = time.monotonic()
    step(ids, None)
    return time.monotonic() - began


def decode(length, tokens):
    token, cache = step(prompt(length), None)
    began = time.monotonic()
    for _ in range(tokens):
        token, cache = step(token, cache)
    return time.monotonic() - began


print(f"ready torch {torch.__version__} transformers {transformers.__version__}", flush=True)
for line in sys.stdin:
    what, *numbers = line.split()
    print({"prefill": prefill, "decode": decode}[what](*map(int, numbers)), flush=True)
