"""Ours, by either recipe, on the peers' splits, batches and counter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, TrainerCallback

from common import collator
from peers.fitting import KeepBest, run_all, settings, training_columns
from peers.outputs import Outputs, budget_score, metric_of
from sharcs import (
    PaperTrainer,
    PaperTrainingArguments,
    SharcsForSequenceClassification,
    SharcsTrainer,
    SharcsTrainingArguments,
)
from sharcs.calibration.frontier import build_frontier
from sharcs.calibration.policies import all_policies
from sharcs.config import BLEND, policy_of
from sharcs.data.named import minilm_path
from sharcs.evaluation.answers import AllAnswers, Routed
from sharcs.evaluation.record import record_answers
from sharcs.evaluation.widths import way_coefficients
from sharcs.training.arguments import RECIPES
from sharcs_runtime.policy import flops
from sharcs_runtime.ways import ways_of

TRAINERS = {
    "sharcs+": (SharcsTrainer, SharcsTrainingArguments),
    "paper": (PaperTrainer, PaperTrainingArguments),
}
SIGNALS = {"sharcs+": "policy", "paper": "router"}


def _answers(model: SharcsForSequenceClassification, rows: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every width's logits ``[widths, inputs, labels]``, the router's ``[inputs, widths]``, lengths and labels."""
    model.train(False)

    def answer(inputs: dict[str, Any]) -> tuple[Any, Any]:
        found = model(**inputs, widths="all")
        return found.width_logits.float(), found.router_logits.float().unsqueeze(0)

    (logits, router_logits), lengths = run_all(answer, rows)
    return logits, router_logits[0], lengths, torch.tensor(rows["labels"])


def outputs_of(model: SharcsForSequenceClassification, rows: Any) -> Outputs:
    """By the paper's recipe, an input runs one of two widths.

    Staying narrow at the cost weight λ means a difference of scores of at least −λ times that of the costs.
    """
    logits, router_logits, lengths, labels = _answers(model, rows)
    ends = [(0,), (len(logits) - 1,)]
    narrow, full, plain = torch.from_numpy(flops(way_coefficients(model, ends), lengths.numpy())).T
    score = torch.sigmoid(router_logits.double())
    signal = (score[:, 0] - score[:, -1]) * plain / (full - narrow)
    spent = torch.stack([narrow, full])
    return Outputs(logits[[0, -1]], spent, plain, labels, {"router": torch.stack([signal, signal])})


def answers_of(model: SharcsForSequenceClassification, rows: Any) -> AllAnswers:
    """By ``sharcs+``, a policy of two knobs chooses: which width to start with, and which answers escalate."""
    return answers_from(model, *_answers(model, rows))


def answers_from(
    model: SharcsForSequenceClassification, logits: Tensor, router_logits: Tensor, lengths: Tensor, labels: Tensor
) -> AllAnswers:
    """The same from answers that come from elsewhere, an export of the model."""
    batch = (np.arange(len(lengths)), logits.numpy(), router_logits.numpy())
    names = tuple(model.config.names)
    coefficients = way_coefficients(model, ways_of(len(names)))
    return record_answers([batch], names, lengths.numpy(), coefficients, blend=BLEND, labels=labels.numpy())


def measured(routed: Routed, name: str) -> tuple[float, float]:
    """Mean FLOPs over the full network's, and the set's metric, of one policy."""
    cost = routed.cost.sum() / routed.answers.full_costs.sum()
    return float(cost), float(metric_of(name)(routed.answers.labels, routed.answer))


def policy_curve(dev: AllAnswers, test: AllAnswers, name: str) -> list[dict[str, float]]:
    """Each budget's policy as ``sharcs calibrate`` leaves them, from held-out rows, on the test rows."""
    frontier = build_frontier(dev, all_policies(dev))
    points = []
    for policy in map(policy_of, frontier):
        on_dev, on_test = (measured(part.route([policy])[0], name) for part in (dev, test))
        points.append(
            {
                "cost_weight": policy.cost_weight,
                "escalation_threshold": policy.escalation_threshold,
                "dev_cost": on_dev[0],
                "dev_metric": on_dev[1],
                "cost": on_test[0],
                "metric": on_test[1],
            }
        )
    return points


@dataclass(frozen=True)
class TwoWidths:
    """What the narrowest width and the full one say, for routers that choose one of them.

    Attributes:
        predictions: ``[2, inputs]``.
        cost: FLOPs, ``[2, inputs]``.
        full: The plain full network's, ``[inputs]``.
        labels: ``[inputs]``.
    """

    predictions: Tensor
    cost: Tensor
    full: Tensor
    labels: Tensor

    @classmethod
    def of(cls, answers: Outputs | AllAnswers) -> TwoWidths:
        if isinstance(answers, Outputs):
            return cls(answers.predictions, answers.cost, answers.full, answers.labels)
        assert answers.labels is not None
        ends = [0, -1]
        arrays = (answers.predictions[:, ends].T, answers.costs[:, ends].T, answers.full_costs, answers.labels)
        return cls(*map(torch.from_numpy, arrays))

    def summary(self, name: str, costs: list[float]) -> dict[str, Any]:
        """Score each alone, and random (mean of 20 draws) and oracle choices between them at given costs."""
        metric, generator = metric_of(name), torch.Generator().manual_seed(0)
        right = self.predictions == self.labels
        gain = right[1].int() - right[0].int()
        # The oracle sends on first what only the full network answers right, and never what it would spoil.
        best_first = gain.argsort(descending=True, stable=True)[: int((gain >= 0).sum())]
        extra = self.cost[1] - self.cost[0]

        def at(order: Tensor, spend: float) -> float:
            goes = order[extra[order].cumsum(0) <= spend * self.full.sum() - self.cost[0].sum()]
            chosen = self.predictions[0].clone()
            chosen[goes] = self.predictions[1][goes]
            return float(metric(self.labels.numpy(), chosen.numpy()))

        rows = []
        for spend in costs:
            drawn = [at(torch.randperm(len(gain), generator=generator), spend) for _ in range(20)]
            rows.append({"cost": spend, "random": sum(drawn) / len(drawn), "oracle": at(best_first, spend)})
        narrow, full = (float(metric(self.labels.numpy(), one.numpy())) for one in self.predictions)
        narrow_cost = float(self.cost[0].sum() / self.full.sum())
        return {"narrow": narrow, "narrow_cost": narrow_cost, "full": full, "bounds": rows}


class Bounded(TrainerCallback):
    """Notes each epoch's shares for the record."""

    def __init__(self) -> None:
        self.shares: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and any(key.startswith("share") for key in logs):
            self.shares.append(dict(logs))


def train(
    recipe: str,
    name: str,
    train_rows: Any,
    dev_rows: Any,
    labels: int,
    *,
    seed: int,
    epochs: float,
    rate: float,
    encoder: str | None = None,
    widths: Sequence[float] = (0.25, 1.0),
    router_layer: int | None = None,
) -> tuple[SharcsForSequenceClassification, dict[str, Any]]:
    """Train by a recipe; by the paper's, the epoch is chosen on held-out rows.

    ``encoder`` is a network that is fine-tuned already, by plain fine-tuning: the first phase of sharcs+.
    """
    source = encoder or minilm_path()
    layer = router_layer or RECIPES[recipe].router_layer(AutoConfig.from_pretrained(source).num_hidden_layers)
    model = SharcsForSequenceClassification.from_encoder(
        source, num_labels=labels, router_layer=layer, widths=widths, weights=RECIPES[recipe].weights
    )
    shares = Bounded()
    callbacks: list[Any] = [shares]
    if recipe == "paper":
        # Ours needs no choice: the full network is chosen already, and the rest ends with the schedule.
        best = KeepBest(model, lambda: budget_score(outputs_of(model, dev_rows), SIGNALS[recipe], name))
        callbacks.append(best)
    kind, arguments = TRAINERS[recipe]
    trainer = kind(
        model=model,
        args=arguments(**settings(f"/tmp/sharcs-ours-{name}-{seed}", seed, epochs, rate)),
        train_dataset=training_columns(train_rows),
        data_collator=collator(),
        callbacks=callbacks,
    )
    trainer.train()
    if recipe != "paper":
        return model, {}
    best.restore()
    return model, {"dev_scores": best.scores, "shares": shares.shares}
