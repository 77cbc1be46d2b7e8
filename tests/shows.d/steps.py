"""What conclave-step-bench says of the three shapes."""

import json
import subprocess

from shapes import shape
from show import BIN

LAYERS = {"olmoe": 4, "deepseek-v2-lite": 4, "qwen3-30b-a3b": 2}


def steps(name, threads, *flags):
    """Its report, and its figures by what they are of."""
    command = [BIN / "conclave-step-bench", shape(name, LAYERS[name]), "--threads", str(threads), *flags, "--json"]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    print(f"{name}, {threads} threads, {report['numerics']}: reads {report['streaming_gb_per_second']:.1f} GB/s, BF16 "
          f"{report['bf16_gflops']:.0f} GF/s, fp32 {report['fp32_gflops']:.0f} GF/s", flush=True)
    return report, {figure["what"]: figure for figure in report["figures"]}
