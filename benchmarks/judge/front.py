"""Ours: what stands in front of the encoder, trained by the package from the reference; unsure inputs go on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from judge.answers import Answers
from judge.families import BLENDS, quantiles, scores
from judge.narrow import routed, trained
from judge.networks import over
from sharcs import spec as described
from sharcs.calibration.policies import BENDS
from sharcs_runtime.policy import flops

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
    model = routed(network, front=specs(network, parts, settings), widths=(1.0,))
    more = {"front_epochs": settings["epochs"], "made_texts": made_texts}
    return model, trained(model, parts, seed=seed, state=state, **more)


def specs(network: Network, parts: Parts, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Describe the networks in front; those of earlier studies did not match the tokens of pairs."""
    pairs = parts.train.pairs is not None
    found = [described.front_spec(network.model.config, kind, pairs=pairs) for kind in KINDS]
    if pairs and not settings.get("matched"):
        before = {described.COMPACT: described.MEAN}  # of the others aligned
        found = [replace(spec, readout=before.get(spec.kind, described.ALIGNED)) for spec in found]
    return [spec.to_dict() for spec in found]


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
        blends: Weights that the earlier answer may have.
        signal: What says how sure an answer is.
    """

    steps: tuple[int, ...]
    to_full: bool = True
    blends: tuple[float, ...] = BLENDS
    signal: str = "confidence"

    def settings(self, held_out: View) -> list[Any]:
        found: list[Any] = []
        for blend in self.blends:
            sure = [step.sure for step in self._steps(held_out, blend)][: len(self.steps) - (not self.to_full)]
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
        for place, step in enumerate(self._steps(view, blend)):
            cost += np.where(here, step.cost, 0.0)
            right = np.where(here, step.right, right)
            if place < len(limits):
                here &= step.sure < limits[place]
        return cost, right

    def _steps(self, view: View, blend: float) -> list[Step]:
        """Work out every step, once for all settings."""
        if (self, blend) not in view.kept:
            costs = [*(view.answers.cost[step] for step in self.steps), view.reference.cost[0]]
            logits = self.at_hand(view, blend)
            sure = self.sure(view, blend, logits)
            right = map(view.right_of_average, logits, self.own(view))
            steps = zip(right, costs, sure, strict=False)
            view.kept[self, blend] = [Step(*each) for each in steps]
        found: list[Step] = view.kept[self, blend]
        return found

    def own(self, view: View) -> list[Any]:
        """What every step says for itself, ``[rows, classes]`` each."""
        return [
            *(view.answers.logits[step] for step in self.steps),
            *([view.reference.logits[0]] if self.to_full else []),
        ]

    def at_hand(self, view: View, blend: float) -> list[Any]:
        """The answer at hand after every step, ``[rows, classes]`` each."""
        found: list[Any] = []
        for logits in self.own(view):
            found.append(view.averaged(logits, found[-1], blend) if found else logits)
        return found

    def sure(self, view: View, blend: float, at_hand: list[Any]) -> list[Any]:
        """How sure the answers at hand are, ``[rows]`` each, higher is surer."""
        return [scores(Answers(logits[None], view.reference.cost), self.signal)[0] for logits in at_hand]


@dataclass(frozen=True, eq=False)
class Step:
    """A step of a chain for every row, whether it comes so far or not: ``[rows]`` each."""

    right: Any
    cost: Any
    sure: Any


def chains() -> list[Chain]:
    """List the ways through what stands in front."""
    steps = range(len(KINDS))
    every = [chosen for count in (1, 2, 3) for chosen in itertools.combinations(steps, count)]
    return [*(Chain(chosen) for chosen in every), Chain(tuple(steps), to_full=False)]
