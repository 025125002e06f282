"""Ours as it is served: exported, its policy chosen on held-out rows by the export's own answers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common import tokenizer
from judge import front
from policy_study import chosen_policy, outcome
from sharcs.calibration.promise import MOST_LOST
from sharcs.config import BLEND
from sharcs.evaluation.exported import run_export
from sharcs.export.bundle import export_model
from sharcs_runtime import OnnxRunner

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from judge.data import Rows
    from judge.pair import Pair
    from sharcs import SharcsForSequenceClassification
    from sharcs.evaluation.answers import AllAnswers

# How held-out rows choose: to lose nothing, as a training does by itself, or what is best within a budget.
CHOICES: dict[str, dict[str, float]] = {
    "nothing lost": {"limit": MOST_LOST},
    "within 25%": {"budget": 0.25},
    "within 10%": {"budget": 0.1},
    "within 5%": {"budget": 0.05},
}


def texts_of(rows: Rows) -> list[Any]:
    """List texts, or pairs of them."""
    return rows.texts if rows.pairs is None else list(zip(rows.texts, rows.pairs, strict=True))


def model_of(pair: Pair) -> SharcsForSequenceClassification:
    """Train ours, or take it up where the judge has left it."""
    settings, made = pair.study.settings["front"], pair.study.settings["made_texts"] * len(pair.parts.train)
    state = pair.cache / "ours"
    return front.train(pair.reference, pair.parts, settings, made_texts=made, seed=pair.seed, state=state)[0]


@dataclass(frozen=True)
class Routed:
    """An export that answers rows by a policy.

    Attributes:
        runner: Of the export.
    """

    runner: OnnxRunner

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        """Answer: 1 for the class that is named, ``[rows, classes]``."""
        named = [answer.class_index for answer in self.runner.predict(texts_of(rows))]
        return np.eye(len(self.runner.labels), dtype=np.float32)[named]

    def cost(self, rows: Rows) -> float:
        """FLOPs over the full network's, of all rows together."""
        every = [
            (answer.flops, answer.flops / answer.cost) for answer in self.runner.answers(texts_of(rows), top_k=1)
        ]
        spent, full = np.sum(every, axis=0)
        return float(spent / full)


def exported(model: SharcsForSequenceClassification, folder: Path, threads: int, **options: Any) -> OnnxRunner:
    """Write an export, by options of ``export_model``, and open it."""
    export_model(model, tokenizer(), folder, **options)
    return OnnxRunner(folder, threads=threads)


def by_policy(runner: OnnxRunner, held_out: Rows, choices: Iterable[str]) -> dict[str, tuple[Routed, dict[str, Any]]]:
    """Choose policies on held-out rows; with what each is and costs there."""
    answers: AllAnswers = run_export(runner, texts_of(held_out), blend=BLEND, labels=held_out.labels)
    found = {}
    for name in choices:
        policy = chosen_policy(answers, "label_score", **CHOICES[name])
        own = copy.copy(runner)
        own.policy = policy
        lost, cost = outcome(answers, policy)
        found[name] = Routed(own), {"policy": policy.to_dict(), "held_out_lost": lost, "held_out_cost": cost}
    return found
