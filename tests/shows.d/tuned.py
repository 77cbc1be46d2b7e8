"""For lines of tests/shows about adapters: the bundled ones, checkpoints with one merged in, and scores of held-out text."""

import json
import math
import shutil
import struct

from show import MODEL, inference_pb2

ADAPTERS = {path.name: path for path in sorted((MODEL.parent / "adapters").iterdir())}
HELDOUT = {path.stem: path for path in sorted((MODEL.parent / "heldout").glob("*.txt"))}
WINDOW = 1024


def score(cluster, text, **options):
    """(nats, tokens) of a text in windows, each behind one end-of-text token; every token of the text counts once."""
    ids = list(cluster.inference.Tokenize(inference_pb2.TokenizeRequest(
        prompt=inference_pb2.Prompt(text=text, no_added_tokens=True))).token_ids)
    windows = [[0, *ids[start:start + WINDOW - 1]] for start in range(0, len(ids), WINDOW - 1)]
    calls = [cluster.inference.Score(inference_pb2.ScoreRequest(
        prompt=inference_pb2.Prompt(tokens=inference_pb2.TokenIds(ids=window)), **options)) for window in windows]
    logprobs = [one.logprob for call in calls for part in call for one in part.logprobs]
    assert len(logprobs) == len(ids)
    return -sum(logprobs), len(ids)


def tensors(path):
    """{name: (description, bytes)} of a safetensors file."""
    content = path.read_bytes()
    length, = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (entry, content[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]])
            for name, entry in header.items()}


def write(path, named):
    header, data = {}, b""
    for name, (entry, part) in named.items():
        header[name] = {**entry, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def merge(adapter, folder):
    """A copy of the model in which the adapter's tensors stand for the base's."""
    replaced = {}
    for path in adapter.glob("*.safetensors"):
        replaced |= {"model." + name.removeprefix("model."): tensor for name, tensor in tensors(path).items()}
    assert replaced, f"{adapter} has no tensors"
    for path in MODEL.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
            continue
        named = tensors(path)
        write(folder / path.name, {name: replaced.pop(name, tensor) for name, tensor in named.items()})
    assert not replaced, f"the base has no {sorted(replaced)[:3]}"


def perplexity(cluster, text, **options):
    nats, tokens = score(cluster, text, **options)
    return math.exp(nats / tokens)
