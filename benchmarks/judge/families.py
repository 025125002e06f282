"""Ways to use a method's answers: each has settings, laid out on held-out rows, and applies one to any rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from judge import averages
from sharcs_runtime.policy import RoutingPolicy, choose_width
from sharcs_runtime.scores import softmax

if TYPE_CHECKING:
    from judge.answers import Answers

GRID = 101  # thresholds of a family
COST_WEIGHTS = 25
BLENDS = (0.0, 0.3, 0.5)  # weight of the first answer in that of an input that goes on
SIGNALS = ("confidence", "entropy", "patience", "certainty")

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class View:
    """Some rows with what is known of them.

    Attributes:
        answers: The method's.
        reference: The reference's, one step: the full network that every method may fall back on.
        labels: int64 ``[rows]``.
        by_probability: Whether an answer is worth what it gives to the true class, and not whether it is right.
        average: How answers of inputs that go on are averaged with those that they had: one of ``averages.AVERAGES``.
        kept: What families have worked out of it, for all their settings.
    """

    answers: Answers
    reference: Answers
    labels: NDArray[np.int64]
    by_probability: bool = False
    average: str = averages.PROBABILITIES
    kept: dict[Any, Any] = field(init=False, default_factory=dict)

    def hits(self, logits: NDArray[np.float32]) -> Flags:
        """Tell which answers are right: ``[..., rows, classes]`` to ``[..., rows]``."""
        flags: Flags = logits.argmax(-1) == self.labels
        return flags

    def right(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Tell which answers are right, or how much they are worth: ``[..., rows, classes]`` to ``[..., rows]``."""
        if not self.by_probability:
            return self.hits(logits)
        labels = np.broadcast_to(self.labels[:, None], (*logits.shape[:-1], 1))
        worth: Floats = np.take_along_axis(softmax(logits.astype(np.float64)), labels, axis=-1)[..., 0]
        return worth

    def right_of_average(self, averaged: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[Any]:
        """The same of an average with earlier answers.

        An average is less sure than the answers that it is of, and right more often. So it is worth as much as the
        later answer, and what is right by it alone, less what was right without it, as in the package.
        """
        if not self.by_probability:
            return self.hits(averaged)
        return self.right(own) + self.hits(averaged).astype(float) - self.hits(own)

    def averaged(self, later: Any, earlier: Any, weight: float) -> Any:
        """Average logits ``[rows, classes]`` of later and earlier answers, of which the latter weigh so much."""
        return averages.AVERAGES[self.average](later, earlier, weight)


Outcome = tuple[Floats, Floats]  # FLOPs and the chance of a right answer, [rows] each


class Family(Protocol):
    """One way to use a method."""

    def settings(self, held_out: View) -> list[Any]:
        """Lay settings out."""

    def apply(self, view: View, setting: Any) -> Outcome:
        """Use one of them."""


def scores(answers: Answers, signal: str) -> NDArray[Any]:
    """How sure every step is, ``[steps, rows]``, higher is surer."""
    if signal == "certainty":
        return answers.signals["certainty"]
    if signal == "patience":
        named = answers.predictions
        runs = np.zeros(named.shape, np.float32)
        for step in range(1, len(runs)):
            # How often in a row the same class was named.
            runs[step] = np.where(named[step] == named[step - 1], runs[step - 1] + 1, 0)
        return runs
    probabilities = softmax(answers.logits.astype(np.float64))
    if signal == "confidence":
        top: Floats = probabilities.max(-1)
        return top
    negative_entropy: Floats = (probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(-1)
    return negative_entropy


def quantiles(values: NDArray[Any]) -> list[float]:
    """Thresholds from "everything leaves" to "everything goes on"."""
    inner = np.quantile(values, np.linspace(0, 1, GRID)) if values.size else []
    return sorted({-1e9, *map(float, inner), 1e9})


@dataclass(frozen=True)
class Static:
    """One network for every input."""

    step: int = 0

    def settings(self, held_out: View) -> list[Any]:
        return [None]

    def apply(self, view: View, setting: Any) -> Outcome:
        return view.answers.cost[self.step], view.right(view.answers.logits[self.step]).astype(float)


@dataclass(frozen=True)
class Exits:
    """An input leaves at the first step that is sure enough, else at the last."""

    signal: str

    def settings(self, held_out: View) -> list[Any]:
        if self.signal == "patience":
            return [float(runs) for runs in range(len(held_out.answers.logits) + 1)]
        return quantiles(scores(held_out.answers, self.signal)[: len(held_out.answers.logits) - 1])

    def apply(self, view: View, setting: Any) -> Outcome:
        steps = len(view.answers.logits)
        sure = scores(view.answers, self.signal)[: steps - 1] >= setting
        left = np.concatenate([sure, np.ones_like(sure[:1])]).argmax(0)
        rows = np.arange(len(left))
        return view.answers.cost[left, rows], view.right(view.answers.logits[left, rows]).astype(float)


@dataclass(frozen=True)
class Cascade:
    """One step of the method, then the reference from its start where that is unsure; answers may be averaged."""

    step: int = 0

    def settings(self, held_out: View) -> list[Any]:
        sure = scores(held_out.answers.step(self.step), "confidence")[0]
        return [(threshold, blend) for blend in BLENDS for threshold in quantiles(sure)]

    def apply(self, view: View, setting: Any) -> Outcome:
        threshold, blend = setting
        first = view.answers.step(self.step)
        goes_on = scores(first, "confidence")[0] < threshold
        later = view.averaged(view.reference.logits[0], first.logits[0], blend)
        averaged = view.right_of_average(later, view.reference.logits[0])
        right = np.where(goes_on, averaged, view.right(first.logits[0]))
        return first.cost[0] + np.where(goes_on, view.reference.cost[0], 0.0), right.astype(float)


@dataclass(frozen=True)
class Routed:
    """Ours: the router or the narrow network first, unsure answers go on to the full one and are averaged.

    Answers are two steps, narrow and full; ``signals`` has the router's logits, ``[2, rows]``, and what continuing at
    full width costs, ``continuation [1, rows]``, as a share of the reference's cost.
    """

    blend: float = 0.3

    def settings(self, held_out: View) -> list[Any]:
        router = held_out.answers.signals["router"].T
        relative = (held_out.answers.cost / held_out.reference.cost[0]).T
        # The cost weight from which on a row stays narrow.
        score = 1 / (1 + np.exp(-router.astype(np.float64)))
        turning = (score[:, 1] - score[:, 0]) / (relative[:, 1] - relative[:, 0])
        weights = sorted({0.0, *np.maximum(np.quantile(turning, np.linspace(0, 1, COST_WEIGHTS)), 0).tolist()})
        sure = quantiles(scores(held_out.answers.step(0), "confidence")[0])
        few = [weights[index] for index in np.linspace(0, len(weights) - 1, 5).astype(int)]
        starts = [("router", weight, -1e9) for weight in weights]
        starts += [("narrow", 0.0, threshold) for threshold in sure]
        return starts + [("router", weight, threshold) for weight in few for threshold in sure]

    def apply(self, view: View, setting: Any) -> Outcome:
        start, weight, threshold = setting
        answers = view.answers
        narrow_first = np.ones(len(view.labels), np.bool_)
        if start == "router":
            relative = (answers.cost / view.reference.cost[0]).T
            chosen = choose_width(answers.signals["router"].T, relative, RoutingPolicy(weight))
            narrow_first = chosen == 0
        goes_on = narrow_first & (scores(answers.step(0), "confidence")[0] < threshold)
        return routed_outcome(view, narrow_first, goes_on, self.blend)


def routed_outcome(view: View, narrow_first: Flags, goes_on: Flags, blend: float) -> Outcome:
    """Answer by a choice of networks for each row."""
    answers = view.answers
    continuation = answers.signals["continuation"][0] * view.reference.cost[0]
    cost = np.where(narrow_first, answers.cost[0], answers.cost[1]) + np.where(goes_on, continuation, 0.0)
    both = view.right_of_average(view.averaged(answers.logits[1], answers.logits[0], blend), answers.logits[1])
    right = np.where(narrow_first, view.right(answers.logits[0]), view.right(answers.logits[1]))
    return cost, np.where(goes_on, both, right).astype(float)


@dataclass(frozen=True)
class ByShare:
    """One step for every input, and a share of the inputs sent on to the reference: what a choice of inputs is worth.

    By chance, outcomes are expected values, without draws. An oracle knows from the labels which inputs gain by it,
    and sends these.

    Attributes:
        step: The first answer.
        oracle: Whether the inputs are those that gain.
        blend: Weight of the first answer in that of an input that goes on.
    """

    step: int = 0
    oracle: bool = False
    blend: float = 0.3

    def settings(self, held_out: View) -> list[Any]:
        return np.linspace(0, 1, GRID).tolist()

    def apply(self, view: View, setting: Any) -> Outcome:
        first, later = view.answers.step(self.step), view.reference
        stays = view.right(first.logits[0]).astype(float)
        averaged = view.averaged(later.logits[0], first.logits[0], self.blend)
        goes_on = view.right_of_average(averaged, later.logits[0]).astype(float)
        share = np.full(len(view.labels), float(setting))
        if self.oracle:
            gains = np.flatnonzero(goes_on > stays)
            share[:] = 0.0
            share[gains[: round(setting * len(gains))]] = 1.0
        return first.cost[0] + share * later.cost[0], stays + share * (goes_on - stays)
