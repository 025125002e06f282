"""What is learned from held-out rows on top of ours: when to go on, and how answers are weighed.

Held-out rows also choose the settings. So what is learned says of these only what it has learned from the others
among them, in five parts; of test rows it says what it has learned from all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from judge.answers import Answers
from judge.families import scores
from judge.front import Chain
from sharcs_runtime.scores import softmax

if TYPE_CHECKING:
    from judge.families import View

PARTS = 5
DECAY = 3.0  # of weights on standardised features
LEAST = 1e-6

Floats = NDArray[np.float64]


def out_of_part(learn: Callable[[NDArray[np.int64]], Callable[[NDArray[np.int64]], Floats]], rows: int) -> Floats:
    """Say something of every row by what was learned from the other parts.

    Args:
        learn: Takes the rows to learn from, and gives what says something of rows, ``[rows, ...]``.
        rows: How many there are.
    """
    part = np.random.default_rng(0).permutation(rows) % PARTS
    said = [(np.flatnonzero(part == each), learn(np.flatnonzero(part != each))) for each in range(PARTS)]
    order = np.concatenate([left for left, _ in said])
    found: Floats = np.concatenate([say(left) for left, say in said])[np.argsort(order)]
    return found


def said(
    fit: Callable[[Floats, NDArray[Any]], Callable[[Floats], Floats]],
    theirs: Floats,
    wanted: NDArray[Any],
    mine: Floats | None,
) -> Floats:
    """Learn from held-out rows, and say something of other rows, or, without any, of the held-out ones out of part.

    Args:
        fit: Takes inputs and what is wanted of them, rows first, and gives what says something of inputs.
        theirs: Inputs of held-out rows.
        wanted: What is wanted of these.
        mine: Inputs of other rows; None for the held-out rows themselves.
    """
    if mine is not None:
        return fit(theirs, wanted)(mine)

    def learn(rows: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], Floats]:
        predict = fit(theirs[rows], wanted[rows])
        return lambda left: predict(theirs[left])

    return out_of_part(learn, len(wanted))


def features(own: list[Any]) -> Floats:
    """Describe answers by what a score may learn from: sureness, margin and entropy of each, and which agree."""
    found = []
    for logits in own:
        probabilities = np.sort(softmax(logits.astype(np.float64)), axis=-1)
        top = np.clip(probabilities[:, -1], LEAST, 1 - LEAST)
        entropy = scores(Answers(logits[None], np.zeros((1, len(logits)))), "entropy")[0]
        found += [np.log(top / (1 - top)), probabilities[:, -1] - probabilities[:, -2], entropy]
    found += [(a.argmax(-1) == b.argmax(-1)).astype(float) for a, b in itertools.pairwise(own)]
    return np.stack(found, axis=1)


def ridge(inputs: Floats, wanted: Floats) -> Callable[[Floats], Floats]:
    """Fit a line to standardised features, with decay."""
    mean, spread = inputs.mean(0), inputs.std(0) + LEAST
    centred = (inputs - mean) / spread
    decayed = centred.T @ centred + DECAY * np.eye(centred.shape[1])
    weights = np.linalg.solve(decayed, centred.T @ (wanted - wanted.mean()))

    def predict(rows: Floats) -> Floats:
        found: Floats = (rows - mean) / spread @ weights + wanted.mean()
        return found

    return predict


@dataclass(frozen=True)
class LearnedChain(Chain):
    """Goes on where that is predicted to gain: what the last answer gives to the truth, less the answer at hand's.

    Attributes:
        learns_from: Held-out rows.
    """

    learns_from: View | None = None

    def sure(self, view: View, blend: float, at_hand: list[Any]) -> list[Any]:
        """What going on is predicted to lose."""
        assert self.learns_from is not None
        held_out = replace(self.learns_from, by_probability=True)
        theirs = self.at_hand(held_out, blend)
        last = held_out.right(theirs[-1])
        found = []
        for place, logits in enumerate(theirs):
            inputs = features(self.own(held_out)[: place + 1])
            is_theirs = view.answers is held_out.answers
            mine = None if is_theirs else features(self.own(view)[: place + 1])
            found.append(-said(ridge, inputs, last - held_out.right(logits), mine))
        return found


def stacked(logs: Floats, weights: Floats) -> Floats:
    """Weigh log-probabilities: ``[answers, rows, classes]`` to logits ``[rows, classes]``."""
    found: Floats = np.tensordot(weights, logs, axes=1)
    return found


def fitted_weights(logs: Floats, labels: NDArray[np.int64]) -> Floats:
    """Find the weights under which the true classes are likeliest, near an even mean."""
    even = np.full(len(logs), 1 / len(logs))
    rows = np.arange(len(labels))

    def loss(weights: Floats) -> float:
        likely = softmax(stacked(logs, weights))[rows, labels]
        return float(-np.log(np.maximum(likely, LEAST)).mean() + ((weights - even) ** 2).sum() / len(labels))

    found: Floats = minimize(loss, even, method="L-BFGS-B").x
    return found


def weighing(logs: Floats, labels: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """Find weights for log-probabilities ``[rows, answers, classes]``, and give what weighs such."""
    weights = fitted_weights(logs.swapaxes(0, 1), labels)
    return lambda rows: stacked(rows.swapaxes(0, 1), weights)


@dataclass(frozen=True)
class StackedChain(Chain):
    """Weighs the answers of all steps so far by what held-out rows say, in place of the fixed mean.

    Attributes:
        learns_from: Held-out rows.
    """

    learns_from: View | None = None

    def at_hand(self, view: View, blend: float) -> list[Any]:
        """The weighed answers."""
        return [self._weighed(view, place) for place in range(len(self.own(view)))]

    def _weighed(self, view: View, place: int) -> Any:
        assert self.learns_from is not None
        mine = self._logs(view, place)
        if place == 0:
            return mine[:, 0]
        is_theirs = view.answers is self.learns_from.answers
        theirs = self._logs(self.learns_from, place)
        return said(weighing, theirs, self.learns_from.labels, None if is_theirs else mine)

    def _logs(self, view: View, place: int) -> Floats:
        own = np.stack(self.own(view)[: place + 1]).astype(np.float64)
        found: Floats = np.log(np.maximum(softmax(own), LEAST)).swapaxes(0, 1)
        return found  # [rows, answers, classes]
