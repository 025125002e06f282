"""The most memory that a contestant takes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharcs.benchmark.contestants import Contestant
    from sharcs_runtime.tokens import Text

# Linux keeps the peak of the process's own memory; what getrusage tells begins with that of the process which
# started it, so it serves only where there is nothing better. It counts bytes on macOS, else kibibytes.
PROGRAM = """
import importlib, json, sys
task = json.load(sys.stdin)
opener = getattr(importlib.import_module(task["module"]), task["opener"])
texts = [tuple(text) if isinstance(text, list) else text for text in task["texts"]]
for answer in opener(**task["arguments"]).predict(texts):
    pass
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))
except (OSError, StopIteration):
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
print("\\npeak", peak)
"""


def peak_megabytes(contestant: Contestant, texts: Sequence[Text]) -> float:
    """Open a contestant in a fresh process, let it answer texts, and return the most memory that it had, in MiB.

    Raises:
        InputError: If the process fails.
    """
    task = {
        "module": contestant.module, "opener": contestant.opener, "arguments": contestant.arguments,
        "texts": list(texts),
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(task), capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        last = run.stderr.strip().splitlines()[-1:]
        raise InputError(f"{contestant.name}: fails in a process of its own ({first_line(Exception(*last))})")
    return float(run.stdout.rpartition("peak")[2])
