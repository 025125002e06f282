"""Whether scores mean what they say: answers by score, the expected calibration error, coverage against accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 10  # of scores
COVERAGE_POINTS = 41


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


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """What comes of abstaining where an answer is not sure enough.

    Attributes:
        below: Inputs whose answer has a score below this one get none.
        coverage: Fraction of the inputs that get one.
        accuracy: Fraction of these answers that is right; None where there are none.
    """

    below: float
    coverage: float
    accuracy: float | None


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


def abstaining(scores: NDArray[np.floating], right: NDArray[np.bool_], below: float) -> CoveragePoint:
    """Leave the answers out whose score is below a limit; the arguments are those of :func:`reliability`."""
    kept = scores >= below
    return CoveragePoint(below, float(kept.mean()), float(right[kept].mean()) if kept.any() else None)


def coverage_curve(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> list[CoveragePoint]:
    """Raise the limit from where nothing is left out, by equal shares of the inputs; see :func:`abstaining`."""
    quantiles = np.quantile(scores.astype(np.float64), np.linspace(0, 1, COVERAGE_POINTS), method="lower")
    return [abstaining(scores, right, limit) for limit in np.unique(quantiles).tolist()]
