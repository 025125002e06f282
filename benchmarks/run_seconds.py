"""Seconds of ours, and of the full network in every runtime that a user could take instead, in turns, in one process.

    pip install -c constraints.txt -r benchmarks/runtimes.txt ".[train,onnx,minilm]"
    python benchmarks/run_seconds.py --sets sst2 banking77       # nothing else running; 10 minutes a set

The network is the judge's reference, seed 0 (run_judge.py trains it, or this does); beside it stands ours, exported,
with policies that held-out rows chose. All begin with texts. In a first round, which warms up, every runtime answers
the same test texts, many at once, in batches of 32 and one by one. Of the runtimes of the full network that lose
nothing (at most 0.2 points, not surely any) the fastest few of each go on, and ours, in rounds whose order turns. A
figure is the median over rounds, and of single texts the mean and the 99th percentile of each text's median. What
can't run here is named with its error.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TextClassificationPipeline

from common import machine, save, tokenizer
from judge import routed, runtimes
from judge.data import Rows
from judge.networks import Network
from judge.pair import Pair
from judge.settings import FOLDER, Study

TEXTS = 512
BATCH = 32
SINGLES = 150
ROUNDS = 5
KEPT = 3  # runtimes of the full network that go through all rounds
MOST_LOST = 0.2  # points, of a runtime that loses nothing
TOKENIZER = tokenizer()

Runtime = Callable[[Rows], Any]


def pipeline(network: Network, batch_size: int) -> Runtime:
    """``transformers.pipeline`` on texts; for the read-out that it has."""
    if network.readout != "cls":
        raise RuntimeError("transformers' pipeline has no read-out of the tokens' mean")
    run = TextClassificationPipeline(model=network.model, tokenizer=TOKENIZER, batch_size=batch_size)

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


def from_texts(run: Runtime) -> Runtime:
    """Tokenise first, as who has texts has to."""

    def answer(rows: Rows) -> Any:
        made = TOKENIZER(rows.texts, rows.pairs, truncation="longest_first", max_length=128)
        types = made.get("token_type_ids") or [[0] * len(ids) for ids in made["input_ids"]]
        return run(replace(rows, ids=made["input_ids"], types=types))

    return answer


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@dataclass
class Times:
    """Seconds of a runtime, a round each: many texts at once, the same in batches, and ``[texts]`` one by one."""

    many: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    singles: list[list[float]] = field(default_factory=list)

    def add(self, run: Runtime, rows: Rows) -> None:
        """Time one round."""
        starts = range(0, len(rows), BATCH)
        batches = [rows.take(range(start, min(start + BATCH, len(rows)))) for start in starts]
        singles = [rows.take([index]) for index in range(SINGLES)]
        self.many.append(seconds(lambda: run(rows)))
        self.batches.append(seconds(lambda: [run(batch) for batch in batches]))
        self.singles.append([seconds(lambda text=text: run(text)) for text in singles])

    def figures(self, texts: int) -> dict[str, float]:
        """Medians over the rounds after the first, or the first where there is no other."""
        rounds = slice(1, None) if len(self.many) > 1 else slice(None)
        single = np.median(self.singles[rounds], axis=0)
        return {
            "rounds": len(self.many[rounds]),
            "texts_a_second": texts / statistics.median(self.many[rounds]),
            "in_batches_a_second": texts / statistics.median(self.batches[rounds]),
            "one_text_ms": 1000 * float(single.mean()),
            "one_text_p99_ms": 1000 * float(np.quantile(single, 0.99)),
        }


def measure(
    made: dict[str, Runtime], going_on: Callable[[dict[str, Times]], list[str]], rows: Rows
) -> dict[str, Times]:
    """Time all of them once, and those that go on in turns."""
    times = {name: Times() for name in made}
    for name, run in made.items():
        times[name].add(run, rows)
    names = going_on(times)
    for number in range(ROUNDS):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].add(made[name], rows)
    return times


def compared(named: NDArray[Any], plain: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Compare classes that are named with PyTorch's own and the true ones."""
    lost = (plain == truth).astype(float) - (named == truth)
    return {
        "accuracy": 100 * float((named == truth).mean()),
        "lost": 100 * float(lost.mean()),
        "lost_error": 100 * float(lost.std() / np.sqrt(len(lost))),
        "agrees": 100 * float((named == plain).mean()),
    }


def loses_nothing(entry: dict[str, float]) -> bool:
    return entry["lost"] <= MOST_LOST and entry["lost"] < 2 * entry["lost_error"] + 1e-9


def runnable(
    wanted: dict[str, Callable[[], Runtime]], name: str, rows: Rows
) -> tuple[dict[str, Runtime], dict[str, str]]:
    """Make what can run here; the others' errors by name."""
    made: dict[str, Runtime] = {}
    failed: dict[str, str] = {}
    for which, make in wanted.items():
        try:
            runtime = make()
            runtime(rows)
        except Exception as error:  # whatever another project raises: it is named, and the others go on
            failed[which] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
            print(name, which, "failed:", failed[which], flush=True)
            continue
        made[which] = runtime
    return made, failed


def ours(pair: Pair, folder: Path, threads: int) -> tuple[dict[str, Runtime], dict[str, dict[str, Any]]]:
    """Export ours in each form, with each policy; and what is known of them."""
    model = routed.model_of(pair)
    forms: dict[str, dict[str, Any]] = {
        "float32": {},
        "int8": {"int8": True},
        "OpenVINO int8": {"int8": True, "runtime": "openvino", "texts": routed.texts_of(pair.parts.train)},
    }
    made: dict[str, Runtime] = {}
    known: dict[str, dict[str, Any]] = {}
    for form, options in forms.items():
        runner = routed.exported(model, folder / form, threads, **options)
        # In single precision one policy says how much int8 gains.
        choices = list(routed.CHOICES)[: 1 if form == "float32" else None]
        for policy, (runtime, record) in routed.by_policy(runner, pair.parts.held_out, choices).items():
            made[f"ours, {form}, {policy}"] = runtime
            known[f"ours, {form}, {policy}"] = record | {"cost": runtime.cost(pair.parts.test)}
    return made, known


def of_set(name: str, threads: int) -> dict[str, Any]:
    """Measure all runtimes on one set."""
    pair = Pair(Study.read(), name, 0)
    network, parts = pair.reference.train(False), pair.parts
    with tempfile.TemporaryDirectory() as folder:
        mine, known = ours(pair, Path(folder), threads)
        wanted = candidates(network, parts.train, Path(folder), threads)
        whole, failed = runnable(wanted, name, parts.held_out.take(range(40)))
        made = {which: run if "pipeline" in which else from_texts(run) for which, run in whole.items()} | mine
        named = {which: run(parts.test).argmax(-1) for which, run in made.items()}
        quality = {
            which: compared(answers, named["PyTorch, by length"], parts.test.labels)
            for which, answers in named.items()
        }

        def going_on(times: dict[str, Times]) -> list[str]:
            safe = [which for which in whole if loses_nothing(quality[which])]
            best = {name for key in ("many", "batches", "singles") for name in _fastest(times, safe, key)}
            return [*sorted(best), *mine]

        times = measure(made, going_on, parts.test.take(range(TEXTS)))
    rows = {
        which: times[which].figures(TEXTS)
        | quality[which]
        | {"loses_nothing": loses_nothing(quality[which])}
        | known.get(which, {})
        for which in made
    }
    return {"set": name, "texts": TEXTS, "threads": threads, "runtimes": rows, "failed": failed, **machine()}


def _fastest(times: dict[str, Times], names: list[str], key: str) -> list[str]:
    return sorted(names, key=lambda name: np.sum(getattr(times[name], key)[0]))[:KEPT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["sst2", "banking77"])
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
