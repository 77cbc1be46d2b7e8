"""The chats of a line of tests/shows: what chat_compare renders beside what transformers' apply_chat_template does."""

import re
import subprocess
import sys

from show import ROOT, WORK, build, measure

ORACLE = ROOT / "tests/reference/chat_oracle.py"


def differing(name, *flags):
    """How many chats the oracle, with these flags, makes; how many of them we render otherwise."""
    lines = WORK / f"{name}.jsonl"
    subprocess.run([sys.executable, ORACLE, *flags, "--out", lines], check=True)
    said = subprocess.run([ROOT / "build/release/tests/chat_compare", lines], stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"(\d+) renderings compared, (\d+) differ", said)
    if found is None or found[2] != "0":
        print(said)
    return (int(found[1]), int(found[2])) if found else (0, 1)


def measure_chats(count=50, seed=20250121):
    build("chat_compare")
    shapes = sorted(path.stem for path in (ROOT / "tests/reference/chat_templates").glob("*.jinja"))
    compared, other = differing("chats", "--count", str(count), "--seed", str(seed))
    measure(f"chats rendered, {count} for each of {len(shapes)} template shapes", compared, ">=", count * len(shapes))
    measure("of those, unlike transformers'", other, "==", 0)
    compared, other = differing("snippets", "--snippets")
    measure("pieces of the template language", compared, ">=", 100)
    measure("of those, unlike transformers'", other, "==", 0)
