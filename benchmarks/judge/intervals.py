"""Intervals of mean differences: test rows drawn anew, once for all methods; seeds by their variance; sets fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
LEVEL = 0.95
MOST_GAINED = 0.5  # points by which a set's gain over the reference counts in a mean, at most

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval, in points.

    Attributes:
        value: The value.
        low: Lower end.
        high: Upper end.
        error: Standard error.
    """

    value: float
    low: float
    high: float
    error: float

    @classmethod
    def of(cls, value: float, error: float, level: float = LEVEL) -> Interval:
        """Take the normal interval around a value."""
        reach = NormalDist().inv_cdf(0.5 + level / 2) * error
        return cls(value, value - reach, value + reach, error)

    @property
    def p(self) -> float:
        """Two-sided chance of a value this far from zero if the truth were zero."""
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        return 2 * (1 - NormalDist().cdf(abs(self.value) / self.error))


def draws(rows: int, seed: int = 0) -> NDArray[np.float32]:
    """How often each row is drawn, as a share of all draws: ``[draws, rows]``."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(rows, np.full(rows, 1 / rows), size=DRAWS)
    return (counts / rows).astype(np.float32)


def set_interval(differences: Floats, weights: NDArray[np.float32]) -> tuple[Interval, Floats]:
    """Estimate the mean of differences, in points, over rows and seeds.

    Args:
        differences: Per seed and row, ``[seeds, rows]``: −1 to 1.
        weights: From :func:`draws`.

    Returns:
        The interval, and the value of every draw of rows, ``[draws]``.
    """
    every = 100 * differences.mean(0)
    value = float(every.mean())
    replicates = weights.astype(np.float64) @ every
    variance = float(replicates.var()) + seed_variance(100 * differences.mean(1))
    return Interval.of(value, math.sqrt(variance)), replicates


def seed_variance(values: Floats) -> float:
    """Variance of a mean over seeds ``[seeds]``: that of drawing seeds anew, times n / (n − 1); 0 for one seed."""
    count = len(values)
    if count < 2:
        return 0.0
    return float(values.var() / count * count / (count - 1))


def mean_over_sets(per_set: list[tuple[Floats, Floats]]) -> Interval:
    """Estimate the mean over sets, which are fixed.

    Args:
        per_set: For each set, a value of every seed, ``[seeds]``, and one of every draw of its rows, ``[draws]``.
    """
    value = float(np.mean([float(seeds.mean()) for seeds, _ in per_set]))
    replicates = np.mean([rows for _, rows in per_set], axis=0)
    seeds = sum(seed_variance(values) for values, _ in per_set) / len(per_set) ** 2
    return Interval.of(value, math.sqrt(float(replicates.var()) + seeds))


def holm(intervals: dict[str, Interval], level: float = 1 - LEVEL) -> dict[str, str]:
    """Say of each set "ahead" (a positive value), "behind" or "level", by Holm's correction over the sets."""
    order = sorted(intervals, key=lambda name: intervals[name].p)
    verdicts = dict.fromkeys(intervals, "level")
    for place, name in enumerate(order):
        if intervals[name].p > level / (len(order) - place):
            break
        verdicts[name] = "ahead" if intervals[name].value > 0 else "behind"
    return verdicts
