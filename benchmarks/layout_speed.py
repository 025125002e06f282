"""Seconds before and after a change of the code, in turns: one text alone, 2,000 texts, and an export in int8.

    python benchmarks/layout_speed.py OLD_SRC NEW_SRC MODEL --json FILE

``OLD_SRC`` and ``NEW_SRC`` are ``src`` folders of two checkouts, ``MODEL`` a model that both read. Each turn is a
fresh process of either, which exports the model, warms up and measures; a figure is the median over turns, and its
ratio the median of the turns' ratios. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import machine, test_file

TURNS = 5
PROGRAM = """
import csv, gzip, json, sys, tempfile, time
from pathlib import Path
import torch
torch.set_num_threads(2)
try:
    from sharcs.inference.engine import InferenceEngine
    from sharcs.inference.folder import open_model
    from sharcs.export.bundle import export_model
except ImportError:
    from sharcs.engine import InferenceEngine
    from sharcs.artifacts import open_model
    from sharcs.export import export_model
from sharcs_runtime import OnnxRunner
folder, data = sys.argv[1:]
with gzip.open(data, "rt", encoding="utf-8") as file:
    texts = [row["text"] for row in csv.DictReader(file)]
texts = (texts * (2000 // len(texts) + 1))[:2000]
trained = open_model(folder)
engine = InferenceEngine(trained.model, trained.tokenizer)
with tempfile.TemporaryDirectory() as work:
    export_model(trained.model, trained.tokenizer, Path(work) / "int8", int8=True)
    runner = OnnxRunner(Path(work) / "int8", threads=2)
    def seconds(work):
        start = time.perf_counter(); work(); return time.perf_counter() - start
    found = {}
    for name, answers in (("engine", engine), ("int8", runner)):
        list(answers.predict(texts[:64]))
        alone = []
        for text in texts[:200]:
            alone.append(seconds(lambda: list(answers.predict([text]))))
        found[f"{name}, one text"] = sorted(alone)[len(alone) // 2]
        found[f"{name}, 2,000 texts"] = min(seconds(lambda: list(answers.predict(texts))) for _ in range(2))
print(json.dumps(found))
"""


def turn(source: str, model: str) -> dict[str, float]:
    """Measure one checkout in a process of its own."""
    environment = os.environ | {"PYTHONPATH": source}
    command = [sys.executable, "-c", PROGRAM, model, test_file("sst2")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("old", "new", "model"):
        parser.add_argument(name)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=TURNS)
    options = parser.parse_args()
    turns = []
    for number in range(options.turns):
        order = ("old", "new") if number % 2 == 0 else ("new", "old")
        measured = {which: turn(getattr(options, which), options.model) for which in order}
        turns.append(measured)
        print(json.dumps(measured), flush=True)
    report = {
        name: {
            "old_seconds": statistics.median(each["old"][name] for each in turns),
            "new_seconds": statistics.median(each["new"][name] for each in turns),
            "ratio": statistics.median(each["new"][name] / each["old"][name] for each in turns),
        }
        for name in turns[0]["old"]
    }
    options.json.write_text(json.dumps({"machine": machine(), "turns": turns, **report}, indent=1) + "\n")
    for name, row in report.items():
        print(f"{name}: {row['new_seconds']:.4f} s after {row['old_seconds']:.4f} s, ratio {row['ratio']:.3f}")


if __name__ == "__main__":
    main()
