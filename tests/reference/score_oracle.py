#!/usr/bin/env python3
"""Log-probabilities and routing of a checkpoint, computed by transformers.

Prints for a checkpoint directory of any family the document that make_checkpoints.py commits as
reference.json (README.md has its format), so that a new configuration, or the bundled model, can be
compared with `conclave score`.

Where transformers departs from the code the authors published, the authors are right: a family's module
in families/ lists the changes on top and makes them. All gates are changed in one more thing: weights
descend and ties go to the lower slot.
"""

import argparse
import json
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers

from families import FAMILIES, fp8, patch_transformers
from families.routing import record

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def family_of(directory):
    """The family's module, by the model_type of config.json."""
    model_type = json.loads(pathlib.Path(directory, "config.json").read_text())["model_type"]
    if model_type not in FAMILIES:
        raise SystemExit(f"{directory}: model_type {model_type} is not one of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def load(directory, dtype):
    """dtype: a key of DTYPES; None: the checkpoint's own, F16 widened to float32, which is exact."""
    family = family_of(directory)
    config = json.loads(pathlib.Path(directory, "config.json").read_text())
    if dtype is None:
        dtype = "bfloat16" if config.get("dtype", config.get("torch_dtype")) == "bfloat16" else "float32"
    if (config.get("quantization_config") or {}).get("quant_method") == "fp8":
        with fp8.dequantised(directory, config) as copy:
            return load(copy, dtype)
    if hasattr(family, "load"):
        return family.load(directory, DTYPES[dtype]).eval(), dtype
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=DTYPES[dtype], attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval(), dtype


def moe_layers(model):
    return [i for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "experts")]


def significant(values, digits):
    """Rounds for print: 9 digits give a float32 back exactly."""
    return [float(f"{v:.{digits}g}") for v in values]


@torch.no_grad()
def score(model, token_ids):
    """Log-probabilities (natural log of p(token i | tokens < i), the first null) and routing."""
    record.layers.clear()
    logits = model(torch.tensor([token_ids]), use_cache=False).logits[0]
    logprobs = logits.double().log_softmax(dim=-1)
    following = torch.tensor(token_ids[1:], dtype=torch.long)
    chosen = logprobs[:-1].gather(1, following.unsqueeze(-1))[:, 0]
    routing = []
    for layer, (slots, weights, gaps) in zip(moe_layers(model), record.layers):
        routing.append(
            {
                "layer": layer,
                "experts": slots.tolist(),
                "weights": [significant(row, 6) for row in weights.tolist()],
                "gaps": significant(gaps.clamp(max=1.0).tolist(), 2),
            }
        )
    return {"token_ids": token_ids, "logprobs": [None] + significant(chosen.tolist(), 9), "routing": routing}


def describe(model, dtype, sequences):
    return {
        "family": model.config.model_type,
        "computed_in": dtype,
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "moe_layers": moe_layers(model),
        "sequences": sequences,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="directory with config.json and *.safetensors")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--token-ids", action="append", metavar="1,2,3", help="may be given several times")
    what.add_argument("--text", action="append", help="tokenised by the checkpoint's tokenizer.json")
    what.add_argument("--file", help="like --text, with the content of a file")
    parser.add_argument("--dtype", choices=DTYPES, help="compute in this type (default: the checkpoint's)")
    parser.add_argument("--unpatched", action="store_true", help="transformers as it is: log-probabilities, no routing")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    if not arguments.unpatched:
        patch_transformers()
    if arguments.token_ids:
        sequences = [[int(i) for i in ids.split(",")] for ids in arguments.token_ids]
    else:
        from tokenizers import Tokenizer

        texts = arguments.text or [open(arguments.file, encoding="utf-8", newline="").read()]
        tokenizer = Tokenizer.from_file(os.path.join(arguments.checkpoint, "tokenizer.json"))
        sequences = [tokenizer.encode(text).ids for text in texts]
    model, dtype = load(arguments.checkpoint, arguments.dtype)
    for ids in sequences:
        unknown = [i for i in ids if not 0 <= i < model.config.vocab_size]
        if unknown or not ids:
            raise SystemExit(f"token ids {unknown or ids} are not below the vocabulary's {model.config.vocab_size}")
    json.dump(describe(model, dtype, [score(model, ids) for ids in sequences]), sys.stdout)
    print()


if __name__ == "__main__":
    main()
