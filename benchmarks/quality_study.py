"""Ours and every peer on seven data sets: one run a method, set and seed.

    python benchmarks/quality_study.py --set sst2 --method sharcs+ --seed 0     # one run
    python benchmarks/quality_all.py --workers 2 --minutes 150                  # all of them

Settings, the epoch and the thresholds come from a tenth of train that no method trains on. A run writes
benchmarks/results/quality/SET-METHOD-SEED.json when it ends; benchmarks/quality_summary.py makes the tables and the
pictures of them. Fine-tuned networks that several methods start from are kept in benchmarks/cache.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from sklearn.model_selection import train_test_split

from common import (
    DATA,
    HOLDOUT,
    RESULTS,
    collator,
    machine,
    processor_seconds,
    save,
    test_file,
    tokenizer,
)
from peers import cost, early_exit, lexical, ours, static
from peers.outputs import Outputs, at_budgets, curve, metric_of
from sharcs import SharcsForSequenceClassification
from sharcs.data.texts import load_texts
from sharcs.data.tokens import tokenise
from sharcs.inference.folder import best_device

SETS = ("sst2", "sick", "banking77", "cola", "agnews", "mrpc", "rte")
ROWS = {"sst2": 8000, "agnews": 4000}  # the others are used whole
MAX_LENGTH = 64  # mrpc and rte have longer pairs; every method is cut alike
SEEDS = (0, 1, 2)
EPOCHS, RATE = 4, 1e-4
ROUTER_LAYER, WIDTHS = 1, (0.25, 1.0)  # the package's own, for every set; quality_tuning.py tries others
PAPER_EPOCHS = 7  # its router has no labels in the first three
CASCADES = {"cascade-tfidf": "tfidf", "cascade-2-layers": "first-2-layers"}
STATIC = {"plain": None, "first-2-layers": 2, "first-3-layers": 3, "first-4-layers": 4}
METHODS = (
    "plain", "sharcs+", "first-2-layers", *early_exit.SIGNALS, "first-3-layers", "first-4-layers", "dynabert",
    "tfidf", *CASCADES, "paper",
)  # fmt: skip
FOLDER = RESULTS / "quality"
CACHE = Path(__file__).parent / "cache"


@functools.cache
def tokenised(name: str) -> tuple[list[Any], list[Any], list[str]]:
    """Read and tokenise train and test: the texts, the rows, and the names of the classes."""
    train = load_texts(str(DATA / name / "train.csv.gz"), max_samples=ROWS.get(name), seed=0)
    test = load_texts(test_file(name))
    names = sorted(set(train.labels or ()))
    ids = {label: index for index, label in enumerate(names)}
    rows = [tokenise(part, tokenizer(), max_length=MAX_LENGTH, label2id=ids) for part in (train, test)]
    return [train, test], rows, names


class Rows:
    """The three parts of a data set: tokenised, and as texts for TF-IDF."""

    def __init__(self, name: str, seed: int) -> None:
        texts, both, self.names = tokenised(name)
        kept, held = train_test_split(
            range(len(both[0])), test_size=HOLDOUT, random_state=seed, stratify=both[0]["labels"]
        )
        self.train, self.dev, self.test = both[0].select(kept), both[0].select(held), both[1]
        joined = [
            [a if b is None else f"{a} |||| {b}" for a, b in zip(d.texts, d.pairs or [None] * len(d), strict=True)]
            for d in texts
        ]
        self.texts = {
            "train": [joined[0][i] for i in kept], "dev": [joined[0][i] for i in held], "test": joined[1],
        }  # fmt: skip


def first_layers(method: str, name: str, rows: Rows, seed: int) -> tuple[static.FirstLayers, dict[str, Any]]:
    """Train a plain network, or take it from the cache: several methods start from one."""
    file = CACHE / f"{name}-{method}-{seed}.pt"
    labels = len(rows.names)
    if file.exists():
        kept = torch.load(file, weights_only=True, map_location="cpu")
        model = static.FirstLayers(labels, STATIC[method])
        model.load_state_dict(kept["weights"])
        return model.to(best_device()), {"dev_scores": kept["dev_scores"], "train_cpu_seconds": kept["cpu_seconds"]}
    start = processor_seconds()
    model, record = static.train_first_layers(
        STATIC[method], name, rows.train, rows.dev, labels, seed=seed, epochs=EPOCHS, rate=RATE
    )
    record["train_cpu_seconds"] = processor_seconds() - start
    CACHE.mkdir(exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    torch.save(
        {
            "weights": model.state_dict(),
            "dev_scores": record["dev_scores"],
            "cpu_seconds": record["train_cpu_seconds"],
        },
        partial,
    )
    partial.replace(file)
    return model, record


def fine_tuned(name: str, rows: Rows, seed: int) -> tuple[str, dict[str, Any]]:
    """Write the fine-tuned network as a directory that sharcs+ starts from; returns the training's record, too."""
    plain, record = first_layers("plain", name, rows, seed)
    folder = CACHE / f"{name}-plain-{seed}"
    if not folder.exists():
        partial = folder.with_suffix(f".{os.getpid()}")
        plain.model.save_pretrained(partial)
        try:
            partial.replace(folder)
        except OSError:  # another run on the set was faster
            shutil.rmtree(partial)
    return str(folder), record


def sub_networks(
    name: str, rows: Rows, seed: int, router_layer: int = ROUTER_LAYER, widths: tuple[float, ...] = WIDTHS
) -> tuple[SharcsForSequenceClassification, dict[str, Any]]:
    """Give the fine-tuned network sub-networks and a router, or take it from the cache."""
    source, first = fine_tuned(name, rows, seed)  # sharcs+'s first phase is plain fine-tuning, bit for bit
    folder = CACHE / f"{name}-sharcs+-{seed}-{router_layer}-{'+'.join(f'{width:g}' for width in widths[:-1])}"
    record = folder / "second_phase.json"
    if not record.exists():
        start = processor_seconds()
        trained, _ = ours.train(
            "sharcs+", name, rows.train, rows.dev, len(rows.names), seed=seed, epochs=0, rate=RATE, encoder=source,
            widths=widths, router_layer=router_layer,
        )  # fmt: skip
        trained.save_pretrained(folder)
        save(record, {"cpu_seconds": processor_seconds() - start})
    # Read back: training in mixed precision leaves it on, and answers are compared in single precision.
    model = SharcsForSequenceClassification.from_pretrained(folder).to(best_device())
    second = json.loads(record.read_text())["cpu_seconds"]
    return model, {
        "router_layer": router_layer,
        "widths": widths,
        "train_cpu_seconds": first["train_cpu_seconds"] + second,
        "second_phase_cpu_seconds": second,
    }


def keep(model: SharcsForSequenceClassification, rows: Rows, folder: Path) -> None:
    """Write a network as 'sharcs train' would, for the other studies and for the command line."""
    model.config.id2label = dict(enumerate(rows.names))
    model.config.label2id = {label: index for index, label in enumerate(rows.names)}
    model.save_pretrained(folder)
    own = tokenizer()
    own.model_max_length = MAX_LENGTH
    own.save_pretrained(folder)


def measure(method: str, name: str, rows: Rows, seed: int) -> tuple[Any, Any, str, dict[str, Any]]:
    """Train a method; returns its answers on held-out and test rows, its signal, and what to note of the training.

    The answers are :class:`peers.outputs.Outputs`, of sharcs+ :class:`sharcs.evaluation.answers.AllAnswers`.
    """
    labels, common = len(rows.names), {"seed": seed, "epochs": EPOCHS, "rate": RATE}
    if method in STATIC:
        model, record = first_layers(method, name, rows, seed)
        return model.outputs(rows.dev), model.outputs(rows.test), "confidence", record
    if method in early_exit.SIGNALS:
        exits, record = early_exit.train(method, name, rows.train, rows.dev, labels, **common)
        answers = [early_exit.outputs_of(exits, part) for part in (rows.dev, rows.test)]
        return *answers, early_exit.SIGNALS[method], record
    if method in ours.SIGNALS:
        if method == "paper":
            routed, record = ours.train(
                method, name, rows.train, rows.dev, labels, **{**common, "epochs": PAPER_EPOCHS}
            )
        else:
            routed, record = sub_networks(name, rows, seed)
        keep(routed, rows, CACHE / f"{name}-{method}-{seed}")
        answer = ours.outputs_of if method == "paper" else ours.answers_of
        return *(answer(routed, part) for part in (rows.dev, rows.test)), ours.SIGNALS[method], record
    plain, record = first_layers("plain", name, rows, seed)
    if method == "dynabert":
        small, record = static.train_dynabert(plain, name, rows.train, rows.dev, collator(), **common)
        return small.outputs(rows.dev), small.outputs(rows.test), "static", record
    full = [plain.outputs(part) for part in (rows.dev, rows.test)]
    if method == "cascade-2-layers":
        small, record = first_layers("first-2-layers", name, rows, seed)
        answers = [lexical.cascade(small.outputs(p), f) for p, f in zip((rows.dev, rows.test), full, strict=True)]
        return *answers, "confidence", record
    words = lexical.train_tfidf(rows.texts["train"], rows.train["labels"], seed=seed)
    answers = [
        lexical.tfidf_outputs(words, rows.texts[part], getattr(rows, part)["labels"], of.full)
        for part, of in zip(("dev", "test"), full, strict=True)
    ]
    if method == "tfidf":
        return *answers, "confidence", {}
    return *(lexical.cascade(a, f) for a, f in zip(answers, full, strict=True)), "confidence", {}


def static_curve(dev: Outputs, test: Outputs, name: str) -> list[dict[str, float]]:
    """One point a stage: every input takes the same."""
    metric = metric_of(name)

    def points(outputs: Outputs) -> list[tuple[float, float]]:
        return [
            (float(c.sum() / outputs.full.sum()), float(metric(outputs.labels.numpy(), p.numpy())))
            for c, p in zip(outputs.cost, outputs.predictions, strict=True)
        ]

    return [
        {"threshold": stage, "dev_cost": d[0], "dev_metric": d[1], "cost": t[0], "metric": t[1]}
        for stage, (d, t) in enumerate(zip(points(dev), points(test), strict=True))
    ]


def curve_of(dev: Any, test: Any, signal: str, name: str) -> list[dict[str, float]]:
    if signal == "policy":
        return ours.policy_curve(dev, test, name)
    return static_curve(dev, test, name) if signal == "static" else curve(dev, test, signal, name)


def run(name: str, method: str, seed: int, results: Path = FOLDER) -> None:
    rows = Rows(name, seed)
    transformers.set_seed(seed)
    cost.check(static.FirstLayers(len(rows.names)).model, len(rows.names))
    transformers.set_seed(seed)
    start = processor_seconds()
    dev, test, signal, record = measure(method, name, rows, seed)
    record.setdefault("train_cpu_seconds", processor_seconds() - start)
    points = curve_of(dev, test, signal, name)
    chosen = at_budgets(points)
    result = {
        "set": name, "method": method, "seed": seed, "signal": signal,
        "metric": "matthews" if name == "cola" else "accuracy",
        "train_rows": len(rows.train), "dev_rows": len(rows.dev), "test_rows": len(rows.test),
        "epochs": EPOCHS, "learning_rate": RATE,
        "mean_over_budgets": sum(row["metric"] for row in chosen) / len(chosen),
        "at_budgets": chosen, "curve": points, **record, **machine(),
    }  # fmt: skip
    if method not in ("plain", "sharcs+") and (CACHE / f"{name}-plain-{seed}.pt").exists():
        # On this machine: results of the same seed differ between machines. Of sharcs+ it is the full width.
        full = first_layers("plain", name, rows, seed)[0].outputs(rows.test)
        result["plain"] = float(metric_of(name)(full.labels.numpy(), full.predictions[0].numpy()))
    if method in ours.SIGNALS:
        result |= ours.TwoWidths.of(test).summary(name, [row["cost"] for row in chosen])
    save(results / f"{name}-{method}-{seed}.json", result)
    print({key: result[key] for key in ("set", "method", "seed", "mean_over_budgets", "train_cpu_seconds")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True, choices=SETS)
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=FOLDER)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run(args.set, args.method, args.seed, args.results)


if __name__ == "__main__":
    main()
