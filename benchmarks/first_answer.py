"""From a table to answers, in the shortest way of each library: lines of code, processor seconds, accuracy.

    .venv-setfit/bin/pip install "model2vec[distill,train]"   # into the environment of few_rows.py
    .venv-setfit/bin/python benchmarks/first_answer.py        # resumes: what is in first_answer.json is skipped

Each program of first_answer/ reads train.csv (1,000 sentences of sst2) and test.csv (sst2's test rows) and answers
the latter, all from the same MiniLM, where they have an encoder at all. It is run as it stands, in a fresh process
with one thread. Its lines are those that are neither empty nor a comment. Settings are each library's own, but for
the rate and the epochs of plain fine-tuning, which are those of ours, and SetFit's pairs, of which the default makes
half a million. ``tools/docs_tables.py`` writes the table.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from common import DATA, RESULTS, machine, save

PROGRAMS = Path(__file__).parent / "first_answer"
FILE = RESULTS / "first_answer.json"
ROWS, SEED = 1000, 0
# What is run behind a program, which leaves its answers in a variable.
CHECK = """
import json
known = [str(answer) for answer in answers]
right = sum(one == other for one, other in zip(known, test["label"].astype(str), strict=True))
extra = {"cost": float(classifier.costs(test["text"]).mean())} if "costs" in dir(globals().get("classifier")) else {}
json.dump({"accuracy": right / len(known), "answers": len(known), **extra}, open("found.json", "w"))
"""


def lines_of(source: str) -> int:
    """Count the lines that are neither empty nor a comment."""
    ast.parse(source)
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines())


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def write_tables(folder: Path) -> None:
    """Write train.csv and test.csv."""
    train = pd.read_csv(DATA / "sst2" / "train.csv.gz", keep_default_na=False)
    train.sample(ROWS, random_state=SEED).to_csv(folder / "train.csv", index=False)
    pd.read_csv(DATA / "sst2" / "test.csv.gz", keep_default_na=False).to_csv(folder / "test.csv", index=False)


def run(program: Path) -> dict[str, Any]:
    """Run a program in a fresh process, and see what it answered."""
    source = program.read_text()
    with tempfile.TemporaryDirectory() as work:
        write_tables(Path(work))
        (Path(work) / "program.py").write_text(source + CHECK)
        threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        before = children_seconds()
        subprocess.run([sys.executable, "program.py"], cwd=work, env=os.environ | threads, check=True)
        seconds = children_seconds() - before
        found = json.loads((Path(work) / "found.json").read_text())
    return {"library": program.stem, "lines": lines_of(source), "processor_seconds": seconds, **found}


def main() -> None:
    content = json.loads(FILE.read_text()) if FILE.exists() else {"rows": ROWS, "seed": SEED, **machine(), "runs": []}
    finished = {entry["library"] for entry in content["runs"]}
    for program in sorted(PROGRAMS.glob("*.py")):
        if program.stem not in finished:
            content["runs"].append(run(program))
            save(FILE, content)
            print(json.dumps(content["runs"][-1]), flush=True)


if __name__ == "__main__":
    main()
