"""Saved FLOPs against saved seconds: at every batch size, on ONNX Runtime, over a million texts, in a profile.

    python benchmarks/speed_study.py all                          # resumes: finished parts are skipped
    python benchmarks/speed_study.py run base-sst2 --seconds 20   # one part

A part writes benchmarks/results/speed/PART.json when it ends, of which benchmarks/speed_summary.py makes tables and a
picture:

    base-SET     12 layers, 768 wide, random weights: time doesn't depend on them. Routed to half of the FLOPs.
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
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoModelForSequenceClassification, BertConfig

import quality_study
from common import DATA, MAX_LENGTH, RESULTS, collator, machine, save, test_file, tokenizer
from peers import ours
from quality_study import Rows
from sharcs.artifacts import TrainedModel, open_model
from sharcs.benchmark import flops_ratios, run_benchmark
from sharcs.columns import Columns
from sharcs.config import SharcsConfig
from sharcs.contestants import contestants, prepare
from sharcs.curve import curve_policies
from sharcs.data import load_texts, tokenise
from sharcs.engine import InferenceEngine
from sharcs.evaluation import Costs, route, run_all_widths
from sharcs.frontier import build_frontier, policy_for_budget
from sharcs.modeling import SharcsForSequenceClassification
from sharcs.trials import policy_paths

FOLDER = RESULTS / "speed"
LENGTHS_OF = ("sst2", "agnews")
SETS = ("sst2", "agnews", "sick", "banking77", "mrpc", "rte", "cola")
HALF, TWICE = 0.5, 0.42
POLICY_TEXTS = 1000
WIDTHS = (0.25, 1.0)
SEED = 0
PARTS = (
    *(f"base-{name}" for name in LENGTHS_OF),
    *(f"minilm-{name}" for name in LENGTHS_OF),
    *(f"trained-{name}" for name in SETS),
    *(f"accuracy-{name}" for name in SETS),
    "million",
    "overhead",
)
NETWORK = "Python of the network, transformers' and torch's"
COMPARED = ("full", "full-ort-int8", "routed", "routed-ort-int8")


@contextmanager
def bar(title: str, total: int) -> Any:
    print(time.strftime("%H:%M:%S"), title, total, flush=True)
    yield lambda count: None


def base_size(names: list[str]) -> SharcsForSequenceClassification:
    """Build a routed network of BERT's size, with random weights and the paper's widths and router layer."""
    torch.manual_seed(0)
    labels = dict(enumerate(names))
    encoder = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=30522, id2label=labels))
    config = SharcsConfig(encoder=encoder.config, widths=list(WIDTHS), router_layer=3, id2label=labels)
    return SharcsForSequenceClassification(config, encoder=encoder).eval()


def base_rows(name: str) -> tuple[TrainedModel, Any]:
    """Build the base-size network for a set, and take the rows that its policy is chosen on.

    They are the measured ones: random weights have no accuracy that this could flatter.
    """
    texts = load_texts(test_file(name), max_samples=POLICY_TEXTS, seed=1)
    own = tokenizer()
    own.model_max_length = MAX_LENGTH
    trained = TrainedModel(base_size(sorted(set(texts.labels or []))), own, Columns())
    return trained, tokenise(texts, own, max_length=MAX_LENGTH)


def network(name: str, cache: Path) -> TrainedModel:
    """Load the network that quality_study.py trained by sharcs+ on a set."""
    folder = cache / f"{name}-sharcs+-{SEED}"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: run benchmarks/quality_study.py --set {name} --method sharcs+")
    return open_model(folder)


def route_to(model: SharcsForSequenceClassification, budget: float, rows: Any) -> float:
    """Set the policy whose mean FLOPs on some rows come closest to a budget, and return them."""
    outputs = run_all_widths(model, rows, collator())
    costs = Costs.of(model, outputs.lengths)
    policies = curve_policies(outputs, costs, model.config.routing_policy)
    spent = [float(costs.spent(*route(outputs, costs, policy)).mean() / costs.full.mean()) for policy in policies]
    best = min(range(len(policies)), key=lambda index: abs(spent[index] - budget))
    model.config.policy = asdict(policies[best])
    return spent[best]


def route_within(model: SharcsForSequenceClassification, budget: float, rows: Any) -> float:
    """Set the policy that 'sharcs calibrate' on some rows would leave for a budget, and return its mean FLOPs."""
    trial = ours.trial_of(model, rows)
    frontier = build_frontier(trial, [policy for path in policy_paths(trial) for policy in path])
    policy = policy_for_budget({"frontier": frontier}, budget)
    model.config.policy = asdict(policy)
    return float(trial.apply([policy]).flops.sum() / trial.costs.full.sum())


def test_texts(trained: TrainedModel, name: str) -> tuple[Any, list[int]]:
    texts = load_texts(test_file(name))
    assert texts.labels is not None
    given: Any = texts.texts if texts.pairs is None else list(zip(texts.texts, texts.pairs, strict=True))
    return given, [trained.model.config.class_indices[label] for label in texts.labels]


def table(trained: TrainedModel, name: str, seconds: float) -> dict[str, Any]:
    """Run the benchmark on a set's test texts."""
    with tempfile.TemporaryDirectory() as temporary:
        write(trained, Path(temporary))
        return run_benchmark(trained, Path(temporary), *test_texts(trained, name), bar=bar, seconds=seconds)


def accuracy(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Answer all test texts; a table has time for a part of them only."""
    trained = network(name, args.cache)
    spent = route_within(trained.model, TWICE, Rows(name, SEED).dev)
    texts, labels = test_texts(trained, name)
    with tempfile.TemporaryDirectory() as temporary:
        folder, work = Path(temporary) / "model", Path(temporary) / "work"
        work.mkdir()
        prepare(trained, work)
        engines = {
            one.name: one for one in contestants(trained, write(trained, folder), work) if one.name in COMPARED
        }
        answers = {name: list(one.open().predict(texts)) for name, one in engines.items()}
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


def write(trained: TrainedModel, folder: Path) -> Path:
    trained.model.save_pretrained(folder)
    trained.tokenizer.save_pretrained(folder)
    return folder


def time_saved(report: dict[str, Any]) -> dict[str, Any]:
    """Set the time that routing saves against the FLOPs that it saves, in each runtime."""
    rows = {row["name"]: row for row in report["rows"]}
    speed = {name: row["texts_per_second"] for name, row in rows.items()}
    return {
        "time_saved_of_flops_saved": {
            size: (1 - ratio) / (1 - rows["routed"]["flops_ratio_at"][size])
            for size, ratio in rows["routed"]["time_ratio"].items()
        },
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


PREDICT = """
import json, sys, time
from pathlib import Path
from sharcs.artifacts import open_model
from sharcs.prediction import open_texts, predict_table
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
