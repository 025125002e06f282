"""Ours, by either recipe, on the peers' splits, batches and counter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, TrainerCallback

from common import collator
from peers.fitting import KeepBest, run_all, settings, training_columns
from peers.outputs import Outputs, budget_score
from sharcs import SharcsForSequenceClassification, SharcsTrainer, SharcsTrainingArguments
from sharcs.builtin import minilm_path
from sharcs.evaluation import Costs
from sharcs.router import blended, choose_width
from sharcs.training_arguments import RECIPES

SIGNALS = {"sharcs+": "confidence", "paper": "router"}


def outputs_of(model: SharcsForSequenceClassification, rows: Any, recipe: str) -> Outputs:
    """Two stages: the width that an input runs first, and the full one.

    With escalation, leaving after the second stage costs both, but for the trunk. By the paper, an input runs one of
    them; staying narrow at the cost weight λ means a difference of scores of at least −λ times that of the costs.
    """
    model.train(False)

    def answer(inputs: dict[str, Any]) -> tuple[Any, Any]:
        found = model(**inputs, all_widths=True)
        return found.width_logits.float(), found.router_logits.float().unsqueeze(0)

    (logits, router_logits), lengths = run_all(answer, rows)
    return stages_of(model, logits, router_logits[0], lengths, torch.tensor(rows["labels"]), recipe)


def stages_of(
    model: SharcsForSequenceClassification,
    logits: Tensor,
    router_logits: Tensor,
    lengths: Tensor,
    labels: Tensor,
    recipe: str,
) -> Outputs:
    """The same from every width's logits ``[widths, inputs, labels]`` and the router's ``[inputs, widths]``."""
    costs = Costs.of(model, lengths)
    full = costs.full
    if recipe == "paper":
        score = torch.sigmoid(router_logits.double())
        signal = (score[:, 0] - score[:, -1]) / (costs.relative[:, -1] - costs.relative[:, 0])
        spent = costs.widths[:, [0, -1]].T
        return Outputs(logits[[0, -1]], spent, full, labels, {"router": torch.stack([signal, signal])})
    first = choose_width(router_logits, costs.relative, model.config.routing_policy)
    everyone = torch.arange(len(first))
    narrow, policy = logits[first, everyone], model.config.routing_policy
    went_on = (first < len(logits) - 1).unsqueeze(1)
    answers = torch.stack([narrow, torch.where(went_on, blended(logits[-1], narrow, policy), logits[-1])])
    cost_first = costs.spent(first, first)
    spent = torch.stack([cost_first, costs.spent(first, torch.full_like(first, logits.shape[0] - 1))])
    return Outputs(answers, spent, full, labels, full_logits=logits[-1])


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
    model = SharcsForSequenceClassification.from_encoder(source, num_labels=labels, router_layer=layer, widths=widths)
    shares = Bounded()
    callbacks: list[Any] = [shares]
    if recipe == "paper":
        # Ours needs no choice: the full network is chosen already, and the rest ends with the schedule.
        best = KeepBest(model, lambda: budget_score(outputs_of(model, dev_rows, recipe), SIGNALS[recipe], name))
        callbacks.append(best)
    trainer = SharcsTrainer(
        model=model,
        args=SharcsTrainingArguments(
            recipe=recipe, **settings(f"/tmp/sharcs-ours-{name}-{seed}", seed, epochs, rate)
        ),
        train_dataset=training_columns(train_rows),
        data_collator=collator(),
        callbacks=callbacks,
    )
    trainer.train()
    if recipe != "paper":
        return model, {}
    best.restore()
    return model, {"dev_scores": best.scores, "shares": shares.shares}
