"""Seconds of the full network in every runtime that a user could take instead, in turns, in one process.

    pip install -c constraints.txt -r benchmarks/runtimes.txt ".[train,onnx,minilm]"
    python benchmarks/run_seconds.py --sets sst2 agnews          # nothing else running; 20 minutes

The network is the judge's reference, seed 0 (run_judge.py trains it, or this does). Each round answers the same 1,024
test texts by every runtime, one after the other, in an order that turns, after a round that warms up; then single
texts. A figure is the median over rounds. The fastest that loses nothing (at most 0.2 points, and not surely any) is
the baseline of every later claim. What can't run here is named with its error.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TextClassificationPipeline

from common import machine, save, tokenizer
from judge import runtimes
from judge.data import Rows, load
from judge.networks import Network
from judge.pair import Pair
from judge.settings import FOLDER, Study

TEXTS = 1024
ROUNDS = 7
SINGLES = 100

Runtime = Callable[[Rows], Any]


def pipeline(network: Network, batch_size: int) -> Runtime:
    """``transformers.pipeline`` on texts; for the read-out that it has."""
    if network.readout != "cls":
        raise RuntimeError("transformers' pipeline has no read-out of the tokens' mean")
    run = TextClassificationPipeline(model=network.model, tokenizer=tokenizer(), batch_size=batch_size)

    def answer(rows: Rows) -> Any:
        texts = [
            {"text": a, "text_pair": b} for a, b in zip(rows.texts, rows.pairs or [None] * len(rows), strict=True)
        ]
        texts = rows.texts if rows.pairs is None else texts
        scores = run(texts, top_k=None, truncation=True, max_length=128)
        label2id = network.config.label2id
        result = np.zeros((len(rows), network.labels), np.float32)
        for row, named in enumerate(scores):
            for entry in named:
                result[row, label2id[entry["label"]]] = entry["score"]
        return result

    return answer


def candidates(network: Network, rows: Rows, folder: Path, threads: int) -> dict[str, Callable[[], Runtime]]:
    """List the runtimes, each as what makes it."""
    plain = folder / "plain.onnx"

    def graph() -> Path:
        return plain if plain.exists() else runtimes.to_onnx(network, plain)

    def fused() -> Path:
        return runtimes.optimised(graph(), network)

    bfloat16 = machine()["training_precision"] == "bfloat16"
    return {
        "transformers pipeline, batches of 1": lambda: pipeline(network, 1),
        "transformers pipeline, batches of 32": lambda: pipeline(network, 32),
        "PyTorch, by length": lambda: runtimes.torch_plain(network),
        "PyTorch, compiled": lambda: runtimes.torch_plain(network, compiled=True),
        **({"PyTorch, bfloat16": lambda: runtimes.torch_plain(network, bfloat16=True)} if bfloat16 else {}),
        "ONNX Runtime": lambda: runtimes.onnx_runtime(graph(), threads),
        "ONNX Runtime, int8": lambda: runtimes.onnx_runtime(runtimes.dynamic_int8(graph()), threads),
        "ONNX Runtime, fused": lambda: runtimes.onnx_runtime(fused(), threads),
        "ONNX Runtime, fused, int8": lambda: runtimes.onnx_runtime(runtimes.dynamic_int8(fused()), threads),
        "OpenVINO": lambda: runtimes.openvino(graph(), threads, how="float32"),
        "OpenVINO, int8 dynamic": lambda: runtimes.openvino(graph(), threads, how="dynamic"),
        "OpenVINO, int8 static": lambda: runtimes.openvino(graph(), threads, how="static", rows=rows),
        "CTranslate2": lambda: runtimes.ctranslate2(network, folder, threads, "float32"),
        "CTranslate2, int8": lambda: runtimes.ctranslate2(network, folder, threads, "int8"),
    }


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(made: dict[str, Runtime], rows: Rows) -> dict[str, dict[str, float]]:
    """Time them in turns."""
    singles = [rows.take([i]) for i in range(SINGLES)]
    many: dict[str, list[float]] = {name: [] for name in made}
    alone: dict[str, list[float]] = {name: [] for name in made}
    for number in range(ROUNDS + 1):
        names = list(made)
        names = names[number % len(names) :] + names[: number % len(names)]
        for name in names:
            many[name].append(seconds(lambda name=name: made[name](rows)))
            each = [seconds(lambda name=name, row=row: made[name](row)) for row in singles]
            alone[name].append(statistics.median(each))
    return {
        name: {
            "texts_a_second": len(rows) / statistics.median(many[name][1:]),
            "one_text_ms": 1000 * statistics.median(alone[name][1:]),
        }
        for name in made
    }


def agreement(made: dict[str, Runtime], rows: Rows) -> dict[str, dict[str, float]]:
    """Compare the answers with PyTorch's own, on all test rows."""
    truth = rows.labels
    plain = made["PyTorch, by length"](rows).argmax(-1)
    found = {}
    for name, run in made.items():
        named = run(rows).argmax(-1)
        lost = (plain == truth).astype(float) - (named == truth)
        error = float(lost.std() / np.sqrt(len(rows)))
        found[name] = {
            "accuracy": 100 * float((named == truth).mean()),
            "lost": 100 * float(lost.mean()),
            "lost_error": 100 * error,
            "agrees": 100 * float((named == plain).mean()),
        }
    return found


def of_set(name: str, threads: int) -> dict[str, Any]:
    """Measure all runtimes on one set."""
    network = Pair(Study.read(), name, 0).reference.train(False)
    parts = load(name)
    made: dict[str, Runtime] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for which, make in candidates(network, parts.train, Path(folder), threads).items():
            try:
                runtime = make()
                runtime(parts.held_out.take(range(40)))
            except Exception as error:  # whatever another project raises: it is named, and the others go on
                failed[which] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
                print(name, which, "failed:", failed[which], flush=True)
                continue
            made[which] = runtime
        result = agreement(made, parts.test)
        timed = measure(made, parts.test.take(range(TEXTS)))
    plain = timed["PyTorch, by length"]["texts_a_second"]
    rows = {
        which: {**timed[which], **result[which], "speed": timed[which]["texts_a_second"] / plain} for which in made
    }
    return {"set": name, "texts": TEXTS, "rounds": ROUNDS, "runtimes": rows, "failed": failed, **machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["sst2", "agnews"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.sets:
        found = of_set(name, options.threads)
        save(FOLDER / "seconds" / f"{name}.json", found)
        for which, row in found["runtimes"].items():
            print(f"{name} {which}: {row['texts_a_second']:.0f} texts/s, {row['one_text_ms']:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
