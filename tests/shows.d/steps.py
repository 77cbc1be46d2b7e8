"""What conclave-step-bench says of the three shapes."""

import json
import subprocess

from shapes import shape
from show import BIN

LAYERS = {"olmoe": 4, "deepseek-v2-lite": 4, "qwen3-30b-a3b": 2}


class NoSuchLevel(Exception):
    """This CPU cannot run the level that was asked for."""


def steps(name, threads, *flags):
    """Its report, and its figures by what they are of."""
    command = [BIN / "conclave-step-bench", shape(name, LAYERS[name]), "--threads", str(threads), *flags, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise (NoSuchLevel if "cannot run level" in done.stderr else RuntimeError)(done.stderr)
    report = json.loads(done.stdout)
    print(f"{name}, {threads} threads, {report['numerics']}: reads {report['streaming_gb_per_second']:.1f} GB/s, BF16 "
          f"{report['bf16_gflops']:.0f} GF/s, fp32 {report['fp32_gflops']:.0f} GF/s", flush=True)
    return report, {figure["what"]: figure for figure in report["figures"]}
