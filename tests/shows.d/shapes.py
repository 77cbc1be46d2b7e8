"""Checkpoints of published models' shapes with fewer layers and random BF16 weights, for measurements of speed: nothing else of
them means anything. Made once under build/shows, whole directories that transformers and llama.cpp's converter take too."""

import itertools
import json
import math
import os
import string
import struct

import numpy

from show import WORK

SPECIAL = "<|endoftext|>"
# Ids below are the special token's and single bytes', and no greedy text has them: whoever holds half a character back until it
# is whole (llama.cpp does) would be measured by chance.
FIRST_WORD = 257


def experts(at, count, ffn, dim):
    for expert in range(count):
        yield from ffn_tensors(f"{at}.{expert}", ffn, dim)


def ffn_tensors(at, ffn, dim):
    for name, shape in (("gate_proj", (ffn, dim)), ("up_proj", (ffn, dim)), ("down_proj", (dim, ffn))):
        yield f"{at}.{name}.weight", shape


def with_ends(config, layer, layers):
    """What is before and behind the layers; `layer` yields one's tensors."""
    dim, vocab = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocab, dim)
    for index in range(layers):
        at = f"model.layers.{index}"
        yield from layer(at, index)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", (dim,)
    yield "model.norm.weight", (dim,)
    yield "lm_head.weight", (vocab, dim)


def olmoe(config):
    dim = config["hidden_size"]

    def layer(at, _):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{at}.self_attn.{name}.weight", (dim, dim)
        for name in ("q_norm", "k_norm"):
            yield f"{at}.self_attn.{name}.weight", (dim,)
        yield f"{at}.mlp.gate.weight", (config["num_experts"], dim)
        yield from experts(f"{at}.mlp.experts", config["num_experts"], config["intermediate_size"], dim)

    return layer


def qwen3_moe(config):
    dim, head = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head

    def layer(at, _):
        for name, shape in (("q_proj", (q, dim)), ("k_proj", (kv, dim)), ("v_proj", (kv, dim)), ("o_proj", (dim, q)),
                            ("q_norm", (head,)), ("k_norm", (head,))):
            yield f"{at}.self_attn.{name}.weight", shape
        yield f"{at}.mlp.gate.weight", (config["num_experts"], dim)
        yield from experts(f"{at}.mlp.experts", config["num_experts"], config["moe_intermediate_size"], dim)

    return layer


def deepseek_v2(config):
    dim, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    plain, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    ffn = config["moe_intermediate_size"]

    def layer(at, index):
        for name, shape in (("q_proj", (heads * (plain + rope), dim)), ("kv_a_proj_with_mqa", (rank + rope, dim)),
                            ("kv_a_layernorm", (rank,)), ("kv_b_proj", (heads * (plain + value), rank)),
                            ("o_proj", (dim, heads * value))):
            yield f"{at}.self_attn.{name}.weight", shape
        if index < config["first_k_dense_replace"]:
            yield from ffn_tensors(f"{at}.mlp", config["intermediate_size"], dim)
            return
        yield f"{at}.mlp.gate.weight", (config["n_routed_experts"], dim)
        yield from experts(f"{at}.mlp.experts", config["n_routed_experts"], ffn, dim)
        yield from ffn_tensors(f"{at}.mlp.shared_experts", config["n_shared_experts"] * ffn, dim)

    return layer


COMMON = {"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False,
          "initializer_range": 0.02, "use_cache": True, "torch_dtype": "bfloat16",
          "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIGS = {
    "olmoe": (olmoe, {
        "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "vocab_size": 50304, "hidden_size": 2048,
        "intermediate_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
        "num_experts_per_tok": 8, "norm_topk_prob": False, "clip_qkv": None, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None}),
    "deepseek-v2-lite": (deepseek_v2, {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048,
        "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_attention_heads": 16, "num_key_value_heads": 16,
        "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
        "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax",
        "norm_topk_prob": False, "routed_scaling_factor": 1.0, "aux_loss_alpha": 0.001, "seq_aux": True,
        "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                         "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}}),
    "qwen3-30b-a3b": (qwen3_moe, {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "decoder_sparse_step": 1,
        "mlp_only_layers": [], "use_sliding_window": False, "sliding_window": None, "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "rope_scaling": None}),
}


# OLMoE's small sister, with few experts or many: for measurements of how work grows.
GROWTH_EXPERTS = (8, 16, 32, 64, 128, 256, 512)
GROWTH_CONTEXT = 32768
CONFIGS.update({f"growth-{count}": (olmoe, {
    **CONFIGS["olmoe"][1], "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 256, "num_attention_heads": 8,
    "num_key_value_heads": 8, "num_experts": count, "max_position_embeddings": GROWTH_CONTEXT + 1024}) for count in GROWTH_EXPERTS})


def config_of(name, layers):
    return {**COMMON, **CONFIGS[name][1], "num_hidden_layers": layers}


def tensors_of(name, layers):
    config = config_of(name, layers)
    return list(with_ends(config, CONFIGS[name][0](config), layers))


def bytes_of_step(name, layers, bits=16):
    """That one token reads: all but experts it does not choose, and of the embedding a row. So many bits has a number of a
    matrix that can be packed."""
    config = config_of(name, layers)
    total = config.get("n_routed_experts") or config["num_experts"]
    def bits_of(tensor, shape):
        return bits if len(shape) == 2 and not tensor.endswith((".gate.weight", ".kv_b_proj.weight")) else 16

    sizes = {tensor: math.prod(shape) * bits_of(tensor, shape) / 8 for tensor, shape in tensors_of(name, layers)}
    del sizes["model.embed_tokens.weight"]
    routed = sum(size for name, size in sizes.items() if ".mlp.experts." in name)
    return sum(sizes.values()) - routed + routed * config["num_experts_per_tok"] / total


def noise(size):
    """Cut at another place for every tensor, one block of it is enough."""
    made = (numpy.random.default_rng(7).standard_normal(1 << 24, dtype=numpy.float32) * size).view(numpy.uint32) >> 16
    return made.astype(numpy.uint16)


def write(path, shapes, salt=0):
    """Random BF16 tensors of these names and shapes; those of norms are ones, and rows of the head that must not win zeros.
    Embeddings are large beside what layers add: otherwise each greedy text soon repeats one word, and a batch the same experts."""
    header, end = {}, 0
    for name, shape in shapes:
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    blocks = {size: noise(size) for size in (0.02, 1.0)}
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for i, (name, shape) in enumerate(shapes):
            count = math.prod(shape)
            if name.endswith("norm.weight"):
                file.write(numpy.full(count, 0x3F80, numpy.uint16).tobytes())
                continue
            if name == "lm_head.weight":
                zeros = FIRST_WORD * shape[1]
                file.write(numpy.zeros(zeros, numpy.uint16).tobytes())
                count -= zeros
            block = blocks[1.0 if name == "model.embed_tokens.weight" else 0.02]
            # An odd start, so that rows do not repeat where the block does.
            start = ((i + salt) * 104729) % (len(block) // 2) | 1
            while count > 0:
                part = block[start:start + count]
                file.write(part.tobytes())
                count -= len(part)
        # Out of memory, so that it is read as after a download: into huge pages, where they are asked for.
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def byte_alphabet():
    """GPT-2's: the character that stands for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def tokenizer(vocab):
    """Byte-level BPE of as many tokens: the special one, bytes, and words of two, three and four letters."""
    words = [SPECIAL, *byte_alphabet()]
    letters, merges = string.ascii_lowercase, []
    pairs = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    for left, right in itertools.chain(itertools.product(letters, letters), itertools.product(pairs, letters),
                                       itertools.product(pairs, pairs)):
        if len(words) == vocab:
            break
        merges.append([left, right])
        words.append(left + right)
    special = {"id": 0, "content": SPECIAL, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
               "special": True}
    alphabet = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
            "pre_tokenizer": alphabet, "post_processor": alphabet, "decoder": alphabet,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {word: id for id, word in enumerate(words)}, "merges": merges}}


def finish(directory, name, content):
    """Last, so that a directory with this file is whole."""
    partial = directory / f"{name}.part"
    partial.write_text(json.dumps(content))
    os.replace(partial, directory / name)


def shape(name, layers):
    """The directory of a checkpoint of that shape, one of CONFIGS."""
    directory = WORK / f"shape-{name}-{layers}"
    if not (directory / "config.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        config = config_of(name, layers)
        write(directory / "model.safetensors", tensors_of(name, layers))
        finish(directory, "tokenizer.json", tokenizer(config["vocab_size"]))
        finish(directory, "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": False, "bos_token": SPECIAL,
            "eos_token": SPECIAL, "pad_token": SPECIAL, "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False})
        finish(directory, "generation_config.json", {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0})
        finish(directory, "config.json", config)
    return directory


def olmoe_adapters(layers, count, experts_each, name="olmoe"):
    """Directories of adapters of OLMoE's shape, or of a sister's, each with so many random experts in every layer."""
    made, total = [], CONFIGS[name][1]["num_experts"]
    for number in range(count):
        directory = WORK / f"shape-{name}-{layers}-adapters-{experts_each}" / str(number)
        made.append(directory)
        if (directory / "expert_cfg.json").exists():
            continue
        directory.mkdir(parents=True, exist_ok=True)
        chance = numpy.random.default_rng(number)
        chosen = {layer: sorted(chance.choice(total, experts_each, replace=False).tolist()) for layer in range(layers)}
        prefixes = tuple(f"model.layers.{layer}.mlp.experts.{slot}." for layer, slots in chosen.items() for slot in slots)
        write(directory / "model.safetensors", [one for one in tensors_of(name, layers) if one[0].startswith(prefixes)],
              salt=1000 * (number + 1))
        finish(directory, "expert_cfg.json", {"experts": {str(layer): slots for layer, slots in chosen.items()},
                                              "shared_experts": False, "non_expert_modules": False})
    return made
