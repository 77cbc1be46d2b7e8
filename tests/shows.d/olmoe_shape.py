"""A checkpoint of OLMoE-1B-7B's shape with fewer layers and random weights, for measurements of speed: nothing else of it means
anything. Made once under build/shows."""

import json
import os
import struct

import numpy

from show import WORK

DIM, HEADS, EXPERTS, TOP_K, FFN, VOCAB = 2048, 16, 64, 8, 1024, 50304


def tensors(layers):
    yield "model.embed_tokens.weight", (VOCAB, DIM)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{at}.self_attn.{name}.weight", (DIM, DIM)
        for name in ("self_attn.q_norm", "self_attn.k_norm", "input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", (DIM,)
        yield f"{at}.mlp.gate.weight", (EXPERTS, DIM)
        for expert in range(EXPERTS):
            for name, shape in (("gate_proj", (FFN, DIM)), ("up_proj", (FFN, DIM)), ("down_proj", (DIM, FFN))):
                yield f"{at}.mlp.experts.{expert}.{name}.weight", shape
    yield "model.norm.weight", (DIM,)
    yield "lm_head.weight", (VOCAB, DIM)


def config(layers):
    return {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "hidden_size": DIM, "intermediate_size": FFN,
            "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "num_experts": EXPERTS,
            "num_experts_per_tok": TOP_K, "norm_topk_prob": False, "vocab_size": VOCAB, "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
            "torch_dtype": "bfloat16"}


def noise():
    """Cut at another place for every tensor, one block of it is enough."""
    made = (numpy.random.default_rng(7).standard_normal(1 << 24, dtype=numpy.float32) * 0.02).view(numpy.uint32) >> 16
    return made.astype(numpy.uint16)


def write(path, shapes, salt=0):
    """Random BF16 tensors of these names and shapes; those of norms are ones."""
    header, end = {}, 0
    for name, shape in shapes:
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    block = noise()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for i, (name, shape) in enumerate(shapes):
            count = int(numpy.prod(shape))
            if name.endswith("norm.weight"):
                file.write(numpy.full(count, 0x3F80, numpy.uint16).tobytes())
                continue
            while count > 0:
                start = ((i + salt) * 104729) % (len(block) // 2)
                part = block[start:start + count]
                file.write(part.tobytes())
                count -= len(part)


def finish(directory, name, content):
    """Last, so that a directory with this file is whole."""
    partial = directory / f"{name}.part"
    partial.write_text(json.dumps(content))
    os.replace(partial, directory / name)


def olmoe_shape(layers=4):
    directory = WORK / f"olmoe-shape-{layers}"
    if not (directory / "config.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        write(directory / "model.safetensors", list(tensors(layers)))
        finish(directory, "config.json", config(layers))
    return directory


def olmoe_adapters(layers, count, experts):
    """Directories of adapters of that checkpoint, each with so many random experts in every layer."""
    made = []
    for number in range(count):
        directory = WORK / f"olmoe-shape-{layers}-adapters-{experts}" / str(number)
        made.append(directory)
        if (directory / "expert_cfg.json").exists():
            continue
        directory.mkdir(parents=True, exist_ok=True)
        chance = numpy.random.default_rng(number)
        chosen = {layer: sorted(chance.choice(EXPERTS, experts, replace=False).tolist()) for layer in range(layers)}
        prefixes = tuple(f"model.layers.{layer}.mlp.experts.{slot}." for layer, slots in chosen.items() for slot in slots)
        write(directory / "model.safetensors", [one for one in tensors(layers) if one[0].startswith(prefixes)], salt=1000 * (number + 1))
        finish(directory, "expert_cfg.json", {"experts": {str(layer): slots for layer, slots in chosen.items()},
                                              "shared_experts": False, "non_expert_modules": False})
    return made
