"""What the studies of speed run: networks, trained or not, routed to a budget, and texts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from common import MAX_LENGTH, collator, test_file, tokenizer
from peers import ours
from sharcs.benchmark.contestants import contestants, prepare
from sharcs.calibration.frontier import build_frontier
from sharcs.calibration.policies import all_policies
from sharcs.config import SharcsConfig, policy_for_budget
from sharcs.data.texts import Columns, load_texts
from sharcs.data.tokens import tokenise
from sharcs.evaluation.curve import curve_policies
from sharcs.evaluation.widths import run_all_widths
from sharcs.inference.folder import TrainedModel, open_model
from sharcs.model.text import SharcsForSequenceClassification

LENGTHS_OF = ("sst2", "agnews")
SETS = ("sst2", "agnews", "sick", "banking77", "mrpc", "rte", "cola")
HALF, TWICE = 0.5, 0.42
POLICY_TEXTS = 1000
WIDTHS = (0.25, 1.0)
SEED = 0


def base_size(names: list[str]) -> SharcsForSequenceClassification:
    """Build a routed network of BERT's size as sharcs+ leaves it, with random weights."""
    torch.manual_seed(0)
    labels = dict(enumerate(names))
    encoder = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=30522, id2label=labels))
    config = SharcsConfig(encoder=encoder.config, widths=list(WIDTHS), router_layer=2, id2label=labels, weights="own")
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
    answers = run_all_widths(model, rows, collator())
    policies = curve_policies(answers, model.config.routing_policy)
    spent = (answers.route(policies).cost.mean(axis=1) / answers.full_costs.mean()).tolist()
    best = min(range(len(policies)), key=lambda index: abs(spent[index] - budget))
    model.config.policy = asdict(policies[best])
    return spent[best]


def route_within(model: SharcsForSequenceClassification, budget: float, rows: Any) -> float:
    """Set the policy that 'sharcs calibrate' on some rows would leave for a budget, and return its mean FLOPs."""
    answers = ours.answers_of(model, rows)
    frontier = build_frontier(answers, all_policies(answers))
    policy = policy_for_budget({"frontier": frontier}, budget)
    model.config.policy = asdict(policy)
    return float(answers.route([policy]).cost.sum() / answers.full_costs.sum())


def test_texts(trained: TrainedModel, name: str) -> tuple[Any, list[int]]:
    texts = load_texts(test_file(name))
    assert texts.labels is not None
    return texts.inputs, [trained.model.config.class_indices[label] for label in texts.labels]


def write(trained: TrainedModel, folder: Path) -> Path:
    trained.model.save_pretrained(folder)
    trained.tokenizer.save_pretrained(folder)
    return folder


def opened(trained: TrainedModel, temporary: Path, names: Collection[str]) -> dict[str, Any]:
    """Write some rows of the benchmark into a folder, and open the engines of them."""
    folder, work = temporary / "model", temporary / "work"
    work.mkdir()
    prepare(trained, work)
    return {one.name: one.open() for one in contestants(trained, write(trained, folder), work) if one.name in names}
