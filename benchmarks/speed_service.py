"""A routed network in service: a million texts through 'sharcs predict', and what the engine itself takes."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from common import DATA, test_file
from quality_study import Rows
from sharcs.data.texts import load_texts
from sharcs.inference.engine import InferenceEngine
from speed_networks import HALF, SEED, network, route_to, write

NETWORK = "Python of the network, transformers' and torch's"
PREDICT = """
import json, sys, time
from pathlib import Path
from sharcs.inference.folder import open_model
from sharcs.inference.predict import predict_table
from sharcs.inference.stream import open_texts
folder, data, output = map(Path, sys.argv[1:])
trained = open_model(folder)
stream = open_texts(str(data), trained.columns)
start = time.perf_counter()
predict_table(trained, folder, stream, output)
seconds = time.perf_counter() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024
print(json.dumps({"seconds": seconds, "peak_mb": peak}))
"""


def million(args: argparse.Namespace) -> dict[str, Any]:
    """Stream short texts from a file to a file, in a process of its own for each number."""
    trained = network("sst2", args.cache)
    route_to(trained.model, HALF, Rows("sst2", SEED).dev)
    words = [" ".join(text.split()[:6]) for text in load_texts(str(DATA / "sst2" / "train.csv.gz")).texts]
    runs = []
    for rows in (args.rows // 100, args.rows):
        with tempfile.TemporaryDirectory() as temporary:
            data = Path(temporary) / "data.csv"
            with data.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["text"])
                writer.writerows([words[number % len(words)]] for number in range(rows))
            folder = write(trained, Path(temporary) / "model")
            command = [sys.executable, "-c", PREDICT, str(folder), str(data), str(Path(temporary) / "out.csv")]
            run = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            runs.append({"rows": rows, "texts_per_second": rows / run["seconds"], **run})
            print(runs[-1], flush=True)
    small, large = runs
    return {
        "runs": runs,
        "peak_ratio": large["peak_mb"] / small["peak_mb"],
        "speed_ratio": large["texts_per_second"] / small["texts_per_second"],
    }


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Profile the routed engine on batches of 32 texts: what is neither tokenising nor inside a tensor operation."""
    trained = network("sst2", args.cache)
    route_to(trained.model, HALF, Rows("sst2", SEED).dev)
    engine = InferenceEngine(trained.model, trained.tokenizer)
    texts = load_texts(test_file("sst2")).texts
    batches = [texts[start : start + 32] for start in range(0, 32 * 40, 32)]
    for batch in batches[:5]:
        list(engine.predict(batch))
    for name, label in (("_tokenise", "tokenising"), ("_trunk", NETWORK), ("_tail", NETWORK)):
        setattr(engine, name, _recorded(label, getattr(engine, name)))
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for batch in batches:
            list(engine.predict(batch))
        seconds = time.perf_counter() - start
    spent = {"tensor operations": 0.0, "tokenising": 0.0, NETWORK: 0.0}
    for event in profiler.key_averages():
        spent[event.key if event.key in spent else "tensor operations"] += event.self_cpu_time_total / 1e6
    shares = {group: of / seconds for group, of in spent.items()}
    shares["engine's own Python and NumPy"] = 1 - sum(shares.values())
    return {"milliseconds_of_a_batch": 1000 * seconds / len(batches), "shares": shares}


def _recorded(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with record_function(label):
            return function(*args)

    return run
