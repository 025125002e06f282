"""What a person should look at: whom routing harms, examples, overthinking, likely wrong labels, and the scores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sharcs.calibration.calibrate import Loss, losses_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sharcs.evaluation.answers import AllAnswers, Routed

BINS = 10  # of scores


@dataclass(frozen=True, slots=True)
class Right:
    """Who is right, fractions of the inputs that make up all of them.

    Attributes:
        both: Routing and the full network.
        neither_same: Neither, with the same wrong answer.
        routed_only: Routing alone.
        full_only: The full network alone.
        neither_different: Neither, with different answers.
    """

    both: float
    neither_same: float
    routed_only: float
    full_only: float
    neither_different: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the policy's answers compare with the full network's.

    Attributes:
        same: Fraction of the inputs with the same answer.
        different: The rest.
        right: What these consist of, or None without labels.
    """

    same: float
    different: float
    right: Right | None


@dataclass(frozen=True, slots=True)
class Harm(Loss):
    """What routing does to the answers of a class, or of a column's value.

    Attributes:
        accuracy: Of the policy there, or None without labels.
        full_accuracy: Of the full network there, or None.
    """

    accuracy: float | None
    full_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose scores are alike.

    Attributes:
        low: The least score, left out of the bin but for 0.
        high: The highest score, in it.
        rows: How many answers there are.
        score: Their mean score, or None where no answer is.
        accuracy: Fraction of them that is right, or None.
    """

    low: float
    high: float
    rows: int
    score: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far scores are from what they say.

    Attributes:
        ece: The expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599): the mean over all
            answers of their bin's difference between accuracy and mean score.
        bins: Ten of equal width.
    """

    ece: float
    bins: list[Bin]


def agreement(routed: Routed) -> Agreement:
    """Count how the policy's answers compare with the full network's."""
    different = routed.disagrees
    parts = None
    if routed.answers.labels is not None:
        neither = ~routed.right & ~routed.lost
        parts = Right(
            both=float((routed.right & ~routed.gained).mean()),
            neither_same=float((neither & ~different).mean()),
            routed_only=float(routed.gained.mean()),
            full_only=float(routed.lost.mean()),
            neither_different=float((neither & different).mean()),
        )
    return Agreement(float((~different).mean()), float(different.mean()), parts)


def harm_by(routed: Routed, values: Sequence[str]) -> list[Harm]:
    """Break down by class, or by a column, what routing does to the answers; the worst first.

    Args:
        routed: Inputs as the policy routes them.
        values: The class, or the column's value, of each.
    """
    hits = Counter(value for value, right in zip(values, routed.right.tolist(), strict=True) if right)
    harms = []
    for loss in losses_by(routed, values):
        accuracy = full_accuracy = None
        if loss.accuracy_drop is not None:
            accuracy = hits[loss.value] / loss.rows
            full_accuracy = accuracy + loss.accuracy_drop
        harms.append(Harm(loss.value, loss.rows, loss.disagreement, loss.accuracy_drop, accuracy, full_accuracy))
    return harms


def example_rows(routed: Routed, width_index: int, count: int) -> list[int]:
    """Choose inputs that a width answered, evenly from the least sure answer to the surest.

    Args:
        routed: Inputs as the policy routes them.
        width_index: The width.
        count: At most so many.
    """
    here = np.flatnonzero(routed.answered_by == width_index)
    if not len(here):
        return []
    by_score = here[np.argsort(routed.score[here], kind="stable")]
    chosen = np.linspace(0, len(by_score) - 1, min(count, len(by_score))).round().astype(int)
    return [int(row) for row in by_score[chosen]]


def overthinking_rows(answers: AllAnswers) -> NDArray[np.int64]:
    """Find inputs that a narrow width answers rightly and the full network wrongly, the surest narrow answer first.

    "Overthinking" is what Kaya, Hong and Dumitras call it (Shallow-Deep Networks, ICML 2019).

    Returns:
        int64 ``[found]``; none without labels.
    """
    if answers.labels is None or answers.predictions.shape[1] < 2:
        return np.zeros(0, dtype=np.int64)
    right = answers.predictions == answers.labels[:, None]
    rows = np.flatnonzero(right[:, :-1].any(axis=1) & ~right[:, -1])
    sure = np.where(right[rows, :-1], answers.scores[rows, :-1], 0).max(axis=1)
    return rows[np.argsort(-sure, kind="stable")]


def wrong_label_rows(answers: AllAnswers) -> NDArray[np.int64]:
    """Find labels that every width confidently contradicts, with the same answer; the clearest first.

    What counts as confident is the definition of confident learning (Northcutt, Jiang and Chuang, "Confident
    Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021, arXiv 1911.00068): the answer's probability is at
    least the mean probability that the network gives that class on the inputs labelled with it. Such a row is off the
    diagonal of each network's confident joint; that all widths have to agree makes the list shorter and surer than
    one network's. They are ordered by the answer's probability less the label's, the paper's normalised margin, in
    the mean over the widths. It presumes data that the network was not trained on.

    Returns:
        int64 ``[found]``; none without labels.
    """
    labels, label_scores = answers.labels, answers.label_scores
    if labels is None or label_scores is None or not len(labels):
        return np.zeros(0, dtype=np.int64)
    predictions, scores = answers.predictions, answers.scores
    classes = int(max(predictions.max(), labels.max())) + 1
    count = np.bincount(labels, minlength=classes)
    agreed = (predictions == predictions[:, -1:]).all(axis=1) & (predictions[:, -1] != labels)
    for width in range(predictions.shape[1]):
        total = np.bincount(labels, weights=label_scores[:, width], minlength=classes)
        # A class that labels nothing has no mean, and nothing can be confident of it.
        limits = np.divide(total, count, out=np.full(classes, np.inf), where=count > 0)
        agreed &= scores[:, width] >= limits[predictions[:, width]]
    rows = np.flatnonzero(agreed)
    margins = (scores[rows] - label_scores[rows]).mean(axis=1)
    return rows[np.argsort(-margins, kind="stable")]


def reliability(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> Reliability:
    """Sort answers by score into ten bins of equal width, and compare mean score and accuracy in each.

    Args:
        scores: Probability of the class that each answer names, ``[answers]``, from 0 to 1.
        right: Whether it is the true one, ``[answers]``.
    """
    edges = np.arange(BINS + 1) / BINS
    index = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, BINS - 1)
    rows = np.bincount(index, minlength=BINS)
    total = np.bincount(index, weights=scores, minlength=BINS)
    hits = np.bincount(index, weights=right, minlength=BINS)
    bins = []
    for number in range(BINS):
        count = int(rows[number])
        score, accuracy = (float(of[number] / count) if count else None for of in (total, hits))
        bins.append(Bin(number / BINS, (number + 1) / BINS, count, score, accuracy))
    return Reliability(float(np.abs(hits - total).sum() / len(scores)), bins)
