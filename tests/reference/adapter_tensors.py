"""What the tensors of a checkpoint or of an ESFT adapter have to do with experts, by their names alone."""

import json
import pathlib
import re
from typing import NamedTuple, Optional

from safetensors.torch import load_file

FACTORS = "_scale_inv"  # of an FP8 matrix: its name with this behind it


class Place(NamedTuple):
    layer: int
    shared: bool
    slot: Optional[int]  # None: the shared expert, or all of a layer in one tensor


def load_directory(directory):
    """{name: tensor} of every safetensors file."""
    tensors = {}
    for file in sorted(pathlib.Path(directory).glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def place_of(name):
    """The place of a tensor, by its name in a checkpoint; None if it is of no expert."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    if not layer or name.endswith(FACTORS):
        return None
    if re.search(r"\.shared_experts?\.", name):
        return Place(int(layer[1]), True, None)
    expert = re.search(r"\.experts\.(\d+)?", name)
    return expert and Place(int(layer[1]), False, int(expert[1]) if expert[1] else None)


def share_name(name, slot):
    """Of one expert's share of a tensor that has all of a layer."""
    return name.replace(".experts.", f".experts.{slot}.", 1)


def with_prefix(name):
    return name if name.startswith("model.") else f"model.{name}"


def load_adapter(directory):
    """(expert_cfg.json, {name as in the checkpoint: tensor})."""
    config = json.loads((pathlib.Path(directory) / "expert_cfg.json").read_text())
    return config, {with_prefix(name): tensor for name, tensor in load_directory(directory).items()}
