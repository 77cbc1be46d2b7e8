"""A tiny checkpoint of tests/reference/checkpoints: what it is made from."""

from dataclasses import dataclass, field

# Tokens per sequence; prefill chunks are 16, 64 or 512.
SHORT = (5, 40, 150)
LONG = (5, 40, 150, 520)


@dataclass
class Case:
    name: str
    config: dict
    dtype: str = "float32"  # of the stored weights
    lengths: tuple = SHORT
    seed: int = 0
    # True: config.json as the authors publish it (rope_theta, rope_scaling, torch_dtype);
    # False: as transformers 5 writes it (rope_parameters, dtype).
    published_config: bool = False
    # True: all experts of a layer in one tensor, as transformers 5 holds them; False: as published, one
    # tensor for each expert's matrix.
    fused_experts: bool = False
    max_shard_size: str = "1GB"
    scale: dict = field(default_factory=dict)  # overrides of make_checkpoints.STD
