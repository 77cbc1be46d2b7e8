"""README's table of families: what the checkpoints of tests/reference cover, read from their settings and tensors, and how
far each is from its reference, as reference_score_test reports: the worst of all dispatch levels and chunks."""

import dataclasses
import json
import pathlib
import struct
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TEST = ROOT / "build/release/tests/reference_score_test"

# config.json's model_type: how its authors call it.
FAMILIES = {
    "deepseek": "DeepSeek (V1 MoE)",
    "deepseek_v2": "DeepSeek-V2",
    "deepseek_v3": "DeepSeek-V3, R1",
    "glm4_moe": "GLM-4.5-MoE",
    "gpt_oss": "gpt-oss",
    "mixtral": "Mixtral",
    "olmoe": "OLMoE",
    "qwen2_moe": "Qwen2-MoE, Qwen1.5-MoE",
    "qwen3_moe": "Qwen3-MoE",
}

HEAD = ("| family | `model_type` | covered by checkpoints | F32: max \\|Δ log-prob\\| | BF16: mean | other experts, of clear choices |\n"
        "|---|---|---|---|---|---|")


def some(word):
    return lambda config, tensors: any(word in name for name in tensors)


def says(key, *neutral):
    return lambda config, tensors: config.get(key) not in (None, False, [], *neutral)


def rope(config):
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def scales_as(kind):
    return lambda config, tensors: kind in (rope(config).get("rope_type"), rope(config).get("type"))


def slides(config, tensors):
    if "layer_types" in config:
        return "sliding_attention" in config["layer_types"]
    return bool(config.get("sliding_window")) and config.get("use_sliding_window", True)


def own_head_width(config, tensors):
    return (config.get("head_dim") or 0) * config["num_attention_heads"] not in (0, config["hidden_size"]) and (
        not config.get("kv_lora_rank"))


def turns_a_share(config, tensors):
    return rope(config).get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) < 1.0


def grouped(config, tensors):
    return config.get("num_key_value_heads", config["num_attention_heads"]) < config["num_attention_heads"]


# What README calls a setting: whether a checkpoint has it.
COVERED = {
    "grouped queries": grouped,
    "own `head_dim`": own_head_width,
    "latent attention": says("kv_lora_rank"),
    "low-rank queries": says("q_lora_rank"),
    "biases": lambda config, tensors: any(
        name.endswith("_proj.bias") or name.endswith("_mqa.bias") for name in tensors),
    "QK norm": some(".q_norm."),
    "`clip_qkv`": says("clip_qkv"),
    "sliding window": slides,
    "attention sinks": some(".sinks"),
    "partial rotary": turns_a_share,
    "linear": scales_as("linear"),
    "llama3": scales_as("llama3"),
    "YaRN": scales_as("yarn"),
    "tied embeddings": says("tie_word_embeddings"),
    "`first_k_dense_replace`": says("first_k_dense_replace", 0),
    "`moe_layer_freq`": says("moe_layer_freq", 1),
    "`decoder_sparse_step`": says("decoder_sparse_step", 1),
    "`mlp_only_layers`": says("mlp_only_layers"),
    "shared experts": some(".shared_expert"),
    "their own gate": some(".shared_expert_gate."),
    "selection bias": some("e_score_correction_bias"),
    "group limit": says("n_group", 1),
    "`norm_topk_prob`": says("norm_topk_prob"),
    "routed scaling": says("routed_scaling_factor", 1.0),
    "fused experts": some(".experts.gate_up_proj"),
    "F16": lambda config, tensors: "F16" in tensors.values(),
    "FP8": lambda config, tensors: "F8_E4M3" in tensors.values(),
}


@dataclasses.dataclass
class Row:
    family: str
    covered: str
    f32: float  # the largest |Δ log-prob| of checkpoints computed in fp32
    bf16: float  # the largest mean of those computed in BF16
    clear: int  # choices of experts that rounding cannot decide
    other: int  # of them, those that differ

    def text(self):
        return (f"| {FAMILIES[self.family]} | `{self.family}` | {self.covered} | {self.f32:.1e} | {self.bf16:.1e} | "
                f"{self.other} of {self.clear} |")


def tensors_of(checkpoint):
    """{name: type} of every tensor."""
    types = {}
    for path in checkpoint.glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        types |= {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    return types


def covered_by(directories):
    """The settings that at least one of these checkpoints has, in the order of COVERED."""
    looked_at = [(json.loads((one / "config.json").read_text()), tensors_of(one)) for one in directories]
    return ", ".join(name for name, has in COVERED.items() if any(has(*one) for one in looked_at))


def parities():
    """[{"name", "family", "exact", "largest", "mean", "clear", "other"}], one for each checkpoint."""
    with tempfile.TemporaryDirectory() as directory:
        report = pathlib.Path(directory, "report.json")
        subprocess.run([TEST, f"--gtest_output=json:{report}"], stdout=subprocess.DEVNULL, check=True)
        suites = json.loads(report.read_text())["testsuites"]
    return [json.loads(test["parity"]) for suite in suites for test in suite["testsuite"]]


def measured_rows():
    """One for each family."""
    made = []
    folder = ROOT / "tests/reference/checkpoints"
    measured = [one for one in parities() if (folder / one["name"]).is_dir()]
    for family in FAMILIES:
        of_family = [one for one in measured if one["family"] == family]
        if not of_family:
            continue
        made.append(Row(
            family, covered_by(folder / one["name"] for one in of_family),
            f32=max(one["largest"] for one in of_family if one["exact"]),
            bf16=max(one["mean"] for one in of_family if not one["exact"]),
            clear=sum(one["clear"] for one in of_family), other=sum(one["other"] for one in of_family)))
    return made


def read_table():
    """README's rows."""
    lines = README.read_text().split(HEAD + "\n", 1)[1].splitlines()
    for line in lines:
        if not line.startswith("|"):
            return
        _, family, covered, f32, bf16, choices = (cell.strip() for cell in line.strip("| ").split(" | "))
        other, clear = choices.split(" of ")
        yield Row(family.strip("`"), covered, float(f32), float(bf16), int(clear), int(other))


def write_table(made):
    """Puts these rows into README in place of its own."""
    before, after = README.read_text().split(HEAD + "\n", 1)
    lines = after.splitlines(keepends=True)
    while lines and lines[0].startswith("|"):
        lines.pop(0)
    README.write_text(before + HEAD + "\n" + "".join(row.text() + "\n" for row in made) + "".join(lines))
