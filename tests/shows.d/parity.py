"""For lines of tests/shows: how far a served checkpoint of tests/reference is from its reference outputs, as any user gets
them: log-probabilities by the tool, routing by Score."""

import dataclasses
import json
import struct
import subprocess

from show import BIN, ROOT, Cluster, inference_pb2, measure

F32_MAX, BF16_MEAN = 1e-3, 0.02  # |Δ log-prob|
F32_GAP, BF16_GAP = 1e-4, 1e-2  # up to which another expert may be chosen


@dataclasses.dataclass
class Parity:
    name: str
    family: str  # config.json's model_type
    stored_as: str
    largest: float  # |Δ log-prob|
    mean: float
    clear: int  # (token, layer) pairs whose choice of experts is clear
    other: int  # of them, with other experts

    @property
    def exact(self):
        """Computed in fp32."""
        return self.stored_as != "bfloat16"


def checkpoints(families=None):
    """Those of these families, or all."""
    for directory in sorted((ROOT / "tests/reference/checkpoints").iterdir()):
        config = json.loads((directory / "config.json").read_text())
        if families is None or config["model_type"] in families:
            yield directory


def scored(cluster, ids):
    said = subprocess.run([BIN / "conclave", "score", "--server", cluster.router.at["grpc"], "--json",
                           "--token-ids", ",".join(map(str, ids))], stdout=subprocess.PIPE, check=True)
    document = json.loads(said.stdout)
    assert document["token_ids"] == ids and len(document["logprobs"]) == len(ids)
    return document["logprobs"]


def routed(cluster, ids):
    """[token][layer] → set of slots."""
    prompt = inference_pb2.Prompt(tokens=inference_pb2.TokenIds(ids=ids))
    tokens = []
    for part in cluster.inference.Score(inference_pb2.ScoreRequest(prompt=prompt, routing=True)):
        routing = part.routing
        slots = struct.unpack(f"<{len(routing.slots) // 2}H", routing.slots)
        for start in range(0, len(slots), max(1, routing.layers * routing.top_k)):
            tokens.append([set(slots[start + layer * routing.top_k:start + (layer + 1) * routing.top_k])
                           for layer in range(routing.layers)])
    return tokens


def compare(checkpoint, reference=None):
    """Serves the checkpoint and asks for every sequence of its reference, a file of its own or the one beside it."""
    reference = json.loads((reference or checkpoint / "reference.json").read_text())
    config = json.loads((checkpoint / "config.json").read_text())
    bound = BF16_GAP if reference["stored_as"] == "bfloat16" else F32_GAP
    deltas, clear, other = [], 0, 0
    # Chunks of 64: the longer sequences take several.
    with Cluster(checkpoint, worker=["--prefill-chunk", "64"]) as cluster:
        for sequence in reference["sequences"]:
            ids = sequence["token_ids"]
            ours = scored(cluster, ids)
            deltas += [abs(a - b) for a, b in zip(ours[1:], sequence["logprobs"][1:])]
            tokens = routed(cluster, ids)
            assert len(tokens) == len(ids)
            for index, layer in enumerate(sequence["routing"]):
                for token, (experts, gap) in enumerate(zip(layer["experts"], layer["gaps"])):
                    if gap > bound:
                        clear += 1
                        other += tokens[token][index] != set(experts)
    return Parity(checkpoint.name, config["model_type"], reference["stored_as"], max(deltas), sum(deltas) / len(deltas),
                  clear, other)


def measure_parity(parity):
    name = f"{parity.name} ({parity.stored_as})"
    if parity.exact:
        measure(f"{name}: max |Δ log-prob|", parity.largest, "<=", F32_MAX)
    else:
        measure(f"{name}: mean |Δ log-prob|", parity.mean, "<=", BF16_MEAN)
    measure(f"{name}: other experts, of {parity.clear} clear choices", parity.other, "==", 0)
