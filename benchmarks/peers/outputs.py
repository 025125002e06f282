"""What a method says about every input, and what each of its policies makes of it.

Every method comes down to stages: an input passes stage after stage until an answer is good enough for the policy.
Stages are exits for early exit, sub-networks for routing, models for a cascade, and one for a static network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.metrics import accuracy_score, matthews_corrcoef
from torch import Tensor

BUDGETS = [round(0.4 + 0.05 * step, 2) for step in range(11)]  # of the full network's FLOPs: 40% to 90%
GRID = 101
FEW = 6  # points of a method that has no threshold to move


@dataclass
class Outputs:
    """Answers of every stage, whether an input would have reached it or not.

    Attributes:
        logits: ``[stages, inputs, labels]``.
        cost: Cumulative FLOPs when an input leaves after a stage, ``[stages, inputs]``.
        full: FLOPs of the plain full network, ``[inputs]``.
        labels: int64 ``[inputs]``.
        signals: Further scores by name, each ``[stages, inputs]``; higher means surer.
    """

    logits: Tensor
    cost: Tensor
    full: Tensor
    labels: Tensor
    signals: dict[str, Tensor] = field(default_factory=dict)

    @property
    def predictions(self) -> Tensor:
        return self.logits.argmax(-1)

    def scores(self, signal: str) -> Tensor:
        """How sure each stage is: ``[stages, inputs]``, higher is surer."""
        if signal in self.signals:
            return self.signals[signal]
        probabilities = self.logits.double().softmax(-1)
        if signal == "confidence":
            return probabilities.amax(-1)
        if signal == "entropy":
            return (probabilities * probabilities.clamp(min=1e-30).log()).sum(-1)
        if signal == "patience":
            # How often in a row the same class was named, this stage included.
            runs = torch.zeros(self.predictions.shape, dtype=torch.float64)
            for stage in range(1, len(runs)):
                same = self.predictions[stage] == self.predictions[stage - 1]
                runs[stage] = torch.where(same, runs[stage - 1] + 1, 0.0)
            return runs
        raise ValueError(signal)


@dataclass(frozen=True)
class Point:
    """One setting of a policy: what it costs, as a fraction of the full network's FLOPs, and how good it is."""

    threshold: float
    cost: float
    metric: float


def leave(outputs: Outputs, scores: Tensor, threshold: float) -> Tensor:
    """The stage after which each input leaves: the first that is sure enough, else the last. int64 ``[inputs]``."""
    sure = scores >= threshold
    sure[-1] = True
    return sure.int().argmax(0)


def metric_of(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Matthews correlation for cola, as everywhere; accuracy elsewhere."""
    return matthews_corrcoef if name == "cola" else accuracy_score


def point(outputs: Outputs, signal: str, threshold: float, metric: Callable[..., float]) -> Point:
    at = leave(outputs, outputs.scores(signal), threshold).unsqueeze(0)
    predictions = outputs.predictions.gather(0, at)[0]
    cost = outputs.cost.gather(0, at).sum() / outputs.full.sum()
    return Point(threshold, float(cost), float(metric(outputs.labels.numpy(), predictions.numpy())))


def thresholds(outputs: Outputs, signal: str) -> list[float]:
    """Settings from "everything leaves first" to "everything stays": quantiles of the scores on held-out rows."""
    scores = outputs.scores(signal)[:-1].flatten().double()
    if len(scores) == 0:
        return [0.0]
    if signal == "patience":
        return [float(n) for n in range(len(outputs.logits) + 1)]
    inner = torch.quantile(scores[:: max(1, len(scores) // 1_000_000)], torch.linspace(0, 1, GRID).double())
    return sorted({-1e9, *inner.tolist(), 1e9})


def curve(dev: Outputs, test: Outputs, signal: str, name: str) -> list[dict[str, float]]:
    """Every setting on held-out rows, where the thresholds come from, and on the test rows."""
    metric = metric_of(name)
    rows = []
    for threshold in thresholds(dev, signal):
        on_dev, on_test = point(dev, signal, threshold, metric), point(test, signal, threshold, metric)
        rows.append(
            {
                "threshold": threshold,
                "dev_cost": on_dev.cost,
                "dev_metric": on_dev.metric,
                "cost": on_test.cost,
                "metric": on_test.metric,
            }
        )
    return rows


def at_budgets(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Read a curve at each budget: between the two settings whose real costs are next to it.

    The settings were laid out on held-out rows; only costs, no labels, of the measured rows say which two are meant.
    A few fixed points can't be mixed: there it is the one that is best on held-out rows among those that fit. Where
    nothing is as cheap as the budget, it is the cheapest, and ``fits`` is False.
    """
    ordered = sorted(rows, key=lambda row: row["cost"])
    chosen = []
    for budget in BUDGETS:
        fitting = [row for row in ordered if row["cost"] <= budget + 1e-9]
        dearer = [row for row in ordered if row["cost"] > budget + 1e-9]
        if not fitting:
            at = {"cost": ordered[0]["cost"], "metric": ordered[0]["metric"]}
        elif len(rows) < FEW or not dearer:
            row = max(fitting, key=lambda row: row["dev_metric"]) if len(rows) < FEW else fitting[-1]
            at = {"cost": row["cost"], "metric": row["metric"]}
        else:
            low, high = fitting[-1], dearer[0]
            share = (budget - low["cost"]) / (high["cost"] - low["cost"])
            at = {"cost": budget, "metric": low["metric"] + share * (high["metric"] - low["metric"])}
        chosen.append({"budget": budget, "fits": bool(fitting), **at})
    return chosen


def budget_score(dev: Outputs, signal: str, name: str) -> float:
    """Mean metric over the budgets, on held-out rows alone: what epochs and settings are chosen by."""
    rows = curve(dev, dev, signal, name)
    return sum(row["metric"] for row in at_budgets(rows)) / len(BUDGETS)
