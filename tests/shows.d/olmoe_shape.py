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


def olmoe_shape(layers=4):
    directory = WORK / f"olmoe-shape-{layers}"
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for name, shape in tensors(layers):
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    # Cut at another place for every tensor, one block of noise is noise enough.
    noise = (numpy.random.default_rng(7).standard_normal(1 << 24, dtype=numpy.float32) * 0.02).view(numpy.uint32) >> 16
    noise = noise.astype(numpy.uint16)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for i, (name, shape) in enumerate(tensors(layers)):
            count = int(numpy.prod(shape))
            if name.endswith("norm.weight"):
                file.write(numpy.full(count, 0x3F80, numpy.uint16).tobytes())
                continue
            while count > 0:
                start = (i * 104729) % (len(noise) // 2)
                part = noise[start:start + count]
                file.write(part.tobytes())
                count -= len(part)
    # Last, so that a directory with it is whole.
    partial = directory / "config.json.part"
    partial.write_text(json.dumps(config(layers)))
    os.replace(partial, directory / "config.json")
    return directory
