"""What a person should look at: whom routing harms, examples, overthinking, likely wrong labels."""

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
