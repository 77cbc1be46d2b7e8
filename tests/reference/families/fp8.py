"""DeepSeek's FP8 checkpoints: F8_E4M3 matrices, and beside each a factor for every block of its numbers.

The reference for such a checkpoint is the same checkpoint with every number times its factor, rounded to the
type of the rest, as the authors' inference/fp8_cast_bf16.py writes it. Activations stay as they are.
"""

import json
import pathlib
import tempfile

import torch
from safetensors.torch import load_file, save_file


def settings(rows, columns):
    return dict(quantization_config=dict(
        quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[rows, columns]))


def quantised_name(name):
    return name.endswith("_proj.weight") or name.endswith("_with_mqa.weight")


def per_number(factors, shape, block):
    """A factor for each number of a matrix."""
    wide = factors.repeat_interleave(block[0], dim=0).repeat_interleave(block[1], dim=1)
    return wide[:shape[0], :shape[1]]


def quantised(tensors, block):
    """Every projection in F8_E4M3, scaled so that a block's largest number is the format's largest."""
    result = {}
    for name, weight in tensors.items():
        if not quantised_name(name):
            result[name] = weight
            continue
        weight = weight.float()
        down = [range(0, side, step) for side, step in zip(weight.shape, block)]
        factors = torch.tensor([[weight[r:r + block[0], c:c + block[1]].abs().max() / 448.0 for c in down[1]]
                                for r in down[0]])
        result[name] = (weight / per_number(factors, weight.shape, block)).to(torch.float8_e4m3fn)
        result[name + "_scale_inv"] = factors
    return result


def dequantised(directory, config):
    """A temporary directory with the same checkpoint without FP8; it is gone when the object is."""
    block = config["quantization_config"]["weight_block_size"]
    dtype = getattr(torch, config.get("dtype", config.get("torch_dtype")))
    copy = tempfile.TemporaryDirectory()
    tensors = {}
    for file in sorted(pathlib.Path(directory).glob("*.safetensors")):
        tensors |= load_file(file)
    for name in [name for name, one in tensors.items() if one.dtype == torch.float8_e4m3fn]:
        factors = tensors.pop(name + "_scale_inv")
        weight = tensors[name].float()
        tensors[name] = (weight * per_number(factors, weight.shape, block)).to(dtype)
    save_file(tensors, pathlib.Path(copy.name, "model.safetensors"), metadata={"format": "pt"})
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    pathlib.Path(copy.name, "config.json").write_text(json.dumps(plain))
    return copy
