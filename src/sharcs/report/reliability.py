"""Whether scores mean what they say: how often answers of a score are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BINS", "reliability"]

BINS = 10


def reliability(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Sort answers by score into ten bins of equal width, and compare mean score and accuracy in each.

    Args:
        scores: Probability of the class that each answer names, ``[answers]``, from 0 to 1.
        right: Whether it is the true one, ``[answers]``.

    Returns:
        ``ece``, the expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599): the mean
        over all answers of their bin's difference between accuracy and mean score; and ``bins``, for each ``low``
        (left out of the bin but for 0), ``high`` (in it), ``rows``, ``score`` and ``accuracy`` (None where no answer
        is).
    """
    edges = np.arange(BINS + 1) / BINS
    index = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, BINS - 1)
    rows = np.bincount(index, minlength=BINS)
    total = np.bincount(index, weights=scores, minlength=BINS)
    hits = np.bincount(index, weights=right, minlength=BINS)
    bins: list[dict[str, Any]] = []
    for number in range(BINS):
        count = int(rows[number])
        bins.append(
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "rows": count,
                "score": float(total[number] / count) if count else None,
                "accuracy": float(hits[number] / count) if count else None,
            }
        )
    return {"ece": float(np.abs(hits - total).sum() / len(scores)), "bins": bins}
