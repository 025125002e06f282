"""Saved FLOPs against saved seconds: at every batch size, on ONNX Runtime, over a million texts, in a profile.

    python benchmarks/speed_study.py all                          # resumes: finished parts are skipped
    python benchmarks/speed_study.py run base-sst2 --seconds 20   # one part

A part writes benchmarks/results/speed/PART.json when it ends, of which benchmarks/speed_summary.py makes tables and a
picture:

    base-SET     12 layers, 768 wide, as sharcs+ has it, with random weights: time doesn't depend on them. Routed to
                 half of the FLOPs.
    minilm-SET   MiniLM as quality_study.py trained it by sharcs+ and left it in --cache, routed to half of the FLOPs.
    trained-SET  the same within a budget of 42% of the FLOPs, which is what twice the speed takes: seconds saved.
    accuracy-SET what the networks of trained-SET, routed and in int8, lose on all test rows; of no speed.
    million      peak memory and speed of 'sharcs predict' over a million short texts, beside 10,000.
    overhead     what of the engine's time is neither tokenising nor tensor operations, at batch size 32.

Policies of trained networks are chosen on rows of train that no network was trained on, never on what is measured.
Each table comes from one run of what 'sharcs benchmark' runs. All of it wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

import quality_study
from common import RESULTS, machine, save
from quality_study import Rows
from sharcs.benchmark.measure import flops_ratios, run_benchmark
from sharcs.inference.folder import TrainedModel
from speed_networks import (
    HALF,
    LENGTHS_OF,
    SEED,
    SETS,
    TWICE,
    base_rows,
    network,
    opened,
    route_to,
    route_within,
    test_texts,
    write,
)
from speed_service import million, overhead

FOLDER = RESULTS / "speed"
PARTS = (
    *(f"base-{name}" for name in LENGTHS_OF),
    *(f"minilm-{name}" for name in LENGTHS_OF),
    *(f"trained-{name}" for name in SETS),
    *(f"accuracy-{name}" for name in SETS),
    "million",
    "overhead",
)
COMPARED = ("full", "full-ort-int8", "routed", "routed-ort-int8")


@contextmanager
def bar(title: str, total: int) -> Any:
    print(time.strftime("%H:%M:%S"), title, total, flush=True)
    yield lambda count: None


def table(trained: TrainedModel, name: str, seconds: float) -> dict[str, Any]:
    """Run the benchmark on a set's test texts."""
    with tempfile.TemporaryDirectory() as temporary:
        write(trained, Path(temporary))
        return run_benchmark(trained, Path(temporary), *test_texts(trained, name), bar=bar, seconds=seconds).to_dict()


def accuracy(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Answer all test texts; a table has time for a part of them only."""
    trained = network(name, args.cache)
    spent = route_within(trained.model, TWICE, Rows(name, SEED).dev)
    texts, labels = test_texts(trained, name)
    with tempfile.TemporaryDirectory() as temporary:
        engines = opened(trained, Path(temporary), COMPARED)
        answers = {name: list(engine.predict(texts)) for name, engine in engines.items()}
    shares = {
        name: sum(answer.class_index == label for answer, label in zip(given, labels, strict=True)) / len(labels)
        for name, given in answers.items()
    }
    return {
        "set": name, "test_rows": len(labels), "policy": trained.model.config.policy,
        "flops_ratio_when_chosen": spent, "accuracy": shares,
        "points_lost": {name: 100 * (shares["full"] - share) for name, share in shares.items()},
        "flops_ratio": flops_ratios(trained, texts, answers),
    }  # fmt: skip


def time_saved(report: dict[str, Any]) -> dict[str, Any]:
    """Set the time that routing saves against the FLOPs that it saves, in each runtime.

    The engine's own full width has faster products than the plain network, and they are not what routing saves.
    """
    rows = {row["name"]: row for row in report["rows"]}
    speed = {name: row["texts_per_second"] for name, row in rows.items()}
    own = {size: ratio / rows["width-1"]["time_ratio"][size] for size, ratio in rows["routed"]["time_ratio"].items()}
    return {
        "time_over_own_full_width": own,
        "time_saved_of_flops_saved": {
            size: (1 - ratio) / (1 - rows["routed"]["flops_ratio_at"][size]) for size, ratio in own.items()
        },
        "routed_over_own_full_width": speed["routed"] / speed["width-1"],
        "routed_over_full": {
            f"routed{kind}": speed[f"routed{kind}"] / speed[f"full{kind}"] for kind in ("", "-ort", "-ort-int8")
        },
        "int8_routed_over_pipeline": speed["routed-ort-int8"] / speed["pipeline"],
    }


def run_table(kind: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    if kind == "base":
        trained, rows = base_rows(name)
        spent = route_to(trained.model, HALF, rows)
    else:
        trained, rows = network(name, args.cache), Rows(name, SEED).dev
        steer, budget = (route_to, HALF) if kind == "minilm" else (route_within, TWICE)
        spent = steer(trained.model, budget, rows)
    report = table(trained, name, args.seconds)
    return {"set": name, "flops_ratio_when_chosen": spent, "policy": trained.model.config.policy,
            "router_layer": trained.model.config.router_layer, **report, **time_saved(report)}  # fmt: skip


def run(part: str, args: argparse.Namespace) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    start = time.time()
    kind, _, name = part.partition("-")
    if kind == "accuracy":
        result = accuracy(name, args)
    else:
        result = run_table(kind, name, args) if name else {"million": million, "overhead": overhead}[part](args)
    save(args.results / f"{part}.json", {"part": part, **result, **machine(), "run_seconds": time.time() - start})
    print(f"wrote {args.results / part}.json", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "all"))
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--cache", type=Path, default=quality_study.CACHE, help="where the trained networks are")
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--seconds", type=float, default=600.0, help="of measuring, for each table")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for part in args.parts or PARTS:
        if args.command == "run" or not (args.results / f"{part}.json").exists():
            run(part, args)


if __name__ == "__main__":
    main()
