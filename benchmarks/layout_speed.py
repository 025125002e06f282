"""Seconds before and after a change of the code, in turns: one text alone, 2,000 texts, in PyTorch and ONNX int8.

    git worktree add /tmp/old 51ed7c4
    python benchmarks/layout_speed.py /tmp/old/src src --json benchmarks/results/layout_speed.json

The first two are ``src`` folders of two checkouts, of which the first is that commit's: it makes the model, which
both read: MiniLM with a narrow network of a quarter that has learned nothing, and a policy. Both live side by side,
each in a process that has exported the model, and measure in turns, a fraction of a second to seconds each, so that
what else slows the machine meets both. A ratio is the median of the rounds' ratios; its interval is a bootstrap of
the rounds. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from common import machine, test_file

MAKE_MODEL = """
import sys
from transformers import AutoTokenizer
from sharcs import SharcsForSequenceClassification
from sharcs.builtin import minilm_path
source = minilm_path()
model = SharcsForSequenceClassification.from_encoder(
    source, num_labels=2, router_layer=1, problem_type="single_label_classification"
)
model.tail.give_private_weights(model.encoder.config)
model.config.private_weights = True
model.config.policy = {"cost_weight": 4.0, "escalation_threshold": 0.505, "blend": 0.3}
model.save_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(source)
tokenizer.model_max_length = 128
tokenizer.save_pretrained(sys.argv[1])
"""
ROUNDS = {"one text": 40, "2,000 texts": 9}
PROGRAM = """
import csv, gzip, json, os, statistics, sys, tempfile, time
from pathlib import Path
answer = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what else is printed is no answer
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
def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
with tempfile.TemporaryDirectory() as work:
    export_model(trained.model, trained.tokenizer, Path(work) / "int8", int8=True)
    engines = {
        "engine": InferenceEngine(trained.model, trained.tokenizer),
        "int8": OnnxRunner(Path(work) / "int8", threads=2),
    }
    for line in sys.stdin:
        which, what, number = json.loads(line)
        engine = engines[which]
        if what == "one text":
            some = [texts[(number * 25 + row) % len(texts)] for row in range(25)]
            alone = [seconds(lambda: list(engine.predict([text]))) for text in some[:5] + some][5:]
            answer.write(json.dumps(statistics.median(alone)) + "\\n")
        else:
            answer.write(json.dumps(seconds(lambda: list(engine.predict(texts)))) + "\\n")
"""


class Arm:
    """One checkout in a process of its own."""

    def __init__(self, source: str, model: str) -> None:
        command = [sys.executable, "-c", PROGRAM, model, str(test_file("sst2"))]
        self._process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": source},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def seconds(self, *question: object) -> float:
        """Measure once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def compared(arms: dict[str, Arm], which: str, what: str) -> dict[str, object]:
    """Measure both in turns, after a round that counts for nothing."""
    rounds: list[dict[str, float]] = []
    for number in range(ROUNDS[what] + 1):
        order = list(arms) if number % 2 == 0 else list(arms)[::-1]
        rounds.append({name: arms[name].seconds(which, what, number) for name in order})
    del rounds[0]
    ratios = np.array([both["new"] / both["old"] for both in rounds])
    draws = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return {
        "old_seconds": statistics.median(both["old"] for both in rounds),
        "new_seconds": statistics.median(both["new"] for both in rounds),
        "ratio": float(np.median(ratios)),
        "interval": [float(low), float(high)],
        "rounds": len(rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("old", "new"):
        parser.add_argument(name)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    report: dict[str, object] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as model:
        environment = os.environ | {"PYTHONPATH": options.old}
        subprocess.run([sys.executable, "-c", MAKE_MODEL, model], env=environment, check=True)
        arms = {name: Arm(getattr(options, name), model) for name in ("old", "new")}
        for which in ("engine", "int8"):
            for what in ROUNDS:
                report[f"{which}, {what}"] = row = compared(arms, which, what)
                print(f"{which}, {what}: {json.dumps(row)}", flush=True)
        for arm in arms.values():
            arm.close()
    options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
