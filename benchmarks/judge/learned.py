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
            mine, own = (features(self.own(each)[: place + 1]) for each in (held_out, view))
            gain = last - held_out.right(logits)
            found.append(-self._predicted(view, mine, gain, own))
        return found

    def _predicted(self, view: View, inputs: Floats, gain: Floats, own: Floats) -> Floats:
        if view.answers is not self.learns_from.answers:  # type: ignore[union-attr]
            return ridge(inputs, gain)(own)

        def learn(rows: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], Floats]:
            predict = ridge(inputs[rows], gain[rows])
            return lambda left: predict(inputs[left])

        return out_of_part(learn, len(gain))


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
        theirs, mine = (self._logs(each, place) for each in (self.learns_from, view))
        labels = self.learns_from.labels
        if place == 0:
            return mine[0]
        if view.answers is not self.learns_from.answers:
            return stacked(mine, fitted_weights(theirs, labels))

        def learn(rows: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], Floats]:
            weights = fitted_weights(theirs[:, rows], labels[rows])
            return lambda left: stacked(theirs[:, left], weights)

        return out_of_part(learn, len(labels))

    def _logs(self, view: View, place: int) -> Floats:
        own = np.stack(self.own(view)[: place + 1]).astype(np.float64)
        found: Floats = np.log(np.maximum(softmax(own), LEAST))
        return found
