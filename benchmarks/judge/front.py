"""Ours: what stands in front of the encoder, trained by the package from the reference; unsure inputs go on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from judge.answers import Answers
from judge.families import BLENDS, quantiles, scores
from judge.narrow import routed, trained
from judge.networks import over
from sharcs.calibration.policies import BENDS
from sharcs_runtime.policy import flops
from sharcs_runtime.scores import blended

if TYPE_CHECKING:
    from pathlib import Path

    from judge.data import Parts, Rows
    from judge.families import Outcome, View
    from judge.networks import Network
    from sharcs import SharcsForSequenceClassification

KINDS = ("lexical", "recurrent", "compact")


def train(
    network: Network, parts: Parts, settings: dict[str, Any], *, made_texts: int, seed: int, state: Path
) -> tuple[SharcsForSequenceClassification, dict[str, Any]]:
    """Put sub-networks in front of a fine-tuned network, and train them on its answers to train and to made texts."""
    transformers.set_seed(seed)
    model = routed(network, front=KINDS, widths=(1.0,), pairs=parts.train.pairs is not None)
    more = {"front_epochs": settings["epochs"], "made_texts": made_texts}
    return model, trained(model, parts, seed=seed, state=state, **more)


def answers_of(model: SharcsForSequenceClassification, rows: Rows) -> Answers:
    """Answer by those in front alone; the full network's answers are the reference's."""
    model.train(False)
    logits = over(rows, lambda inputs: model(**inputs, widths="front").width_logits)
    every = flops(model.cost_coefficients(), torch.from_numpy(rows.lengths)).numpy()
    return Answers(logits, every[:, : len(KINDS)].T)


@dataclass(frozen=True)
class Chain:
    """Steps in front, and then the reference from its start; answers at hand are averaged with later ones.

    Attributes:
        steps: Which, in their order.
        to_full: Whether the reference comes last.
    """

    steps: tuple[int, ...]
    to_full: bool = True

    def settings(self, held_out: View) -> list[Any]:
        found: list[Any] = []
        for blend in BLENDS:
            sure = [self._scores(held_out, blend)[place] for place in range(len(self.steps) - (not self.to_full))]
            levels = np.linspace(0, 1, len(quantiles(sure[0])) - 2)
            for bend in BENDS if len(sure) > 1 else (1.0,):
                limits = [np.quantile(of, levels if place == 0 else levels**bend) for place, of in enumerate(sure)]
                found += [(blend, at) for at in zip(*(of.tolist() for of in limits), strict=True)]
                found += [(blend, (-1e9,) * len(sure)), (blend, (1e9,) * len(sure))]
        return found

    def apply(self, view: View, setting: Any) -> Outcome:
        blend, limits = setting
        cost = np.zeros(len(view.labels))
        right = np.zeros(len(view.labels))
        here = np.ones(len(view.labels), np.bool_)
        sure = self._scores(view, blend)
        for place, (logits, of_step) in enumerate(self._answers(view, blend)):
            cost += np.where(here, of_step, 0.0)
            right = np.where(here, view.right(logits), right)
            if place < len(limits):
                here &= sure[place] < limits[place]
        return cost, right

    def _answers(self, view: View, blend: float) -> list[tuple[Any, Any]]:
        """The answer at hand after each step, and what the step costs."""
        found: list[tuple[Any, Any]] = []
        for step in self.steps:
            found.append(self._next(found, view.answers.logits[step], view.answers.cost[step], blend))
        if self.to_full:
            found.append(self._next(found, view.reference.logits[0], view.reference.cost[0], blend))
        return found

    @staticmethod
    def _next(found: list[tuple[Any, Any]], logits: Any, cost: Any, blend: float) -> tuple[Any, Any]:
        return (blended(logits, found[-1][0], blend) if found else logits), cost

    def _scores(self, view: View, blend: float) -> list[Any]:
        return [
            scores(Answers(logits[None], np.asarray(cost)[None]), "confidence")[0]
            for logits, cost in self._answers(view, blend)
        ]


def chains() -> list[Chain]:
    """List the ways through what stands in front."""
    steps = range(len(KINDS))
    every = [chosen for count in (1, 2, 3) for chosen in itertools.combinations(steps, count)]
    return [*(Chain(chosen) for chosen in every), Chain(tuple(steps), to_full=False)]
