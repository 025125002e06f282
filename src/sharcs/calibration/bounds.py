"""Bounds that hold for any number of rows: rates, paired differences, mean costs.

Each bound is an inverted test: it is below a limit exactly when the test refuses "the truth is above the limit" at
one minus the confidence. Rows have to be independent draws of what the bound is to hold for; nothing else is assumed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sharcs_runtime.drift import bisected

Floats = NDArray[np.float64]

# Share of the error that pays for not knowing how often two networks differ, and the steps in which that is tried.
NUISANCE_SHARE = 0.05
NUISANCE_STEPS = 100


def binomial_cdf(successes: Any, rows: Any, rate: Any) -> Floats:
    """Probability of at most so many successes; 0 below zero and 1 from ``rows`` on."""
    k, n, p = np.broadcast_arrays(successes, rows, rate)
    inside = special.bdtr(np.clip(k, 0, n), n, p)
    return np.where(k < 0, 0.0, np.where(k >= n, 1.0, inside))


def rate_p(failures: int, rows: int, limit: float) -> float:
    """P-value of "the rate of failures is above ``limit``": the exact binomial tail.

    Args:
        failures: How many rows failed.
        rows: Of how many.
        limit: From 0 to 1.

    Returns:
        The probability of so few failures at a rate of ``limit``; 1 without rows.
    """
    return float(binomial_cdf(failures, rows, limit)) if rows else 1.0


def rate_upper(failures: int, rows: int, confidence: float) -> float:
    """Upper bound of a rate (Clopper and Pearson 1934): the limit at which :func:`rate_p` is 1 − confidence.

    Args:
        failures: How many rows failed.
        rows: Of how many.
        confidence: From 0 to 1.
    """
    return 1.0 if failures >= rows else float(special.betaincinv(failures + 1, rows - failures, confidence))


@lru_cache(maxsize=100_000)
def difference_p(lost: int, gained: int, rows: int, limit: float, confidence: float) -> float:
    """P-value of "P(lost) − P(gained) is above ``limit``", for losses and gains in the same rows.

    The statistic is lost − gained. Its distribution depends on how often there is either, a nuisance that is varied
    over its own exact interval, with the chance that the interval is wrong added (Berger and Boos, JASA 1994). Within
    a step of that interval the probability is bounded from above by its most favourable corner, since the statistic
    grows, stochastically, with P(lost) and falls with P(gained): the p-value is valid, not only at the steps.

    Args:
        lost: Rows that the full network has right and the policy wrong.
        gained: Rows the other way round.
        rows: All rows.
        limit: From −1 to 1.
        confidence: Of the test that the p-value is meant for; it sets the interval's.
    """
    if rows == 0:
        return 1.0
    miss = NUISANCE_SHARE * (1 - confidence)
    either = lost + gained
    low = 1 - rate_upper(rows - either, rows, 1 - miss / 2)
    high = rate_upper(either, rows, 1 - miss / 2)
    edges = np.linspace(low, high, NUISANCE_STEPS + 1)
    edges = np.unique(np.maximum(edges, limit))  # P(lost) + P(gained) is no less than their difference
    if len(edges) < 2:
        edges = np.repeat(edges, 2)
    if high < limit:
        return miss
    lose = np.clip((edges[:-1] + limit) / 2, 0, 1)[:, None]  # [steps, 1]
    gain = np.clip((edges[1:] - limit) / 2, 0, edges[1:])[:, None]
    spread = 8 * math.sqrt(rows * gain.max() * (1 - gain.min())) + 20
    first = max(0, math.floor(rows * gain.min() - spread))
    gains = np.arange(first, min(rows, math.ceil(rows * gain.max() + spread)) + 1)  # beyond is less than rounding
    log_weight = (
        special.gammaln(rows + 1)
        - special.gammaln(gains + 1)
        - special.gammaln(rows - gains + 1)
        + special.xlogy(gains, gain)
        + special.xlog1py(rows - gains, -gain)
    )
    share = np.minimum(lose / np.maximum(1 - gain, 1e-300), 1.0)
    tail = binomial_cdf(lost - gained + gains, rows - gains, share)  # of the losses, given the gains
    return min(1.0, float((np.exp(log_weight) * tail).sum(axis=1).max()) + miss)


def difference_upper(lost: int, gained: int, rows: int, confidence: float) -> float:
    """Upper bound of P(lost) − P(gained): the limit at which :func:`difference_p` is 1 − confidence.

    Args:
        lost: Rows that the full network has right and the policy wrong.
        gained: Rows the other way round.
        rows: All rows.
        confidence: From 0 to 1.
    """
    error = 1 - confidence
    return bisected(lambda limit: difference_p(lost, gained, rows, limit, confidence) > error, -1.0, 1.0)[1]


def bet_size(costs: Floats, weights: Floats, limit: float, largest: float, rows: int, confidence: float) -> float:
    """Choose the stake of :func:`mean_upper` from other rows than those that it is going to be used on.

    It is the stake that is the best where the bound only just meets the limit: √(2 log(1/error) / (rows · variance)),
    as in Waudby-Smith and Ramdas (JRSS B 2024, section 3.3). Any other keeps the bound valid.

    Args:
        costs: Of other rows.
        weights: Of the same.
        limit: The limit that is going to be tested.
        largest: No cost is above.
        rows: How many the bound will be taken on.
        confidence: Of the bound.
    """
    variance = float(np.var(costs - limit * weights))
    most = 0.9 / largest
    needed = 2 * math.log(1 / (1 - confidence))
    return most if rows * variance * most**2 <= needed else math.sqrt(needed / (rows * variance))


def mean_upper(costs: Floats, weights: Floats, bet: float, confidence: float) -> float:
    """Upper bound of E[cost] / E[weight], by betting.

    A gambler who stakes a share of the capital on "this cost is below ``m`` times its weight" can't gain on average
    if the ratio is above m, so capital ∏ (1 + bet · (m · weight − cost)) reaches 1/error with probability at most the
    error (Markov); the bound is the m at which it does (Waudby-Smith and Ramdas, JRSS B 2024). It adapts to the
    costs' variance, unlike Hoeffding's, and is never wider than needed for the largest possible cost.

    Args:
        costs: Not negative, ``[rows]``.
        weights: Above 0, ``[rows]``.
        bet: The stake; times the largest possible cost it has to be below 1. Fixed without a look at these rows.
        confidence: From 0 to 1.

    Returns:
        The bound, infinite without rows.
    """
    if len(costs) == 0:
        return math.inf
    goal = -math.log(1 - confidence)
    low, high = 0.0, 1.0
    while _log_capital(costs, weights, bet, high) < goal:
        low, high = high, 2 * high
    return bisected(lambda mean: _log_capital(costs, weights, bet, mean) < goal, low, high)[1]


def mean_is_below(costs: Floats, weights: Floats, bet: float, confidence: float, limit: float) -> bool:
    """Whether :func:`mean_upper` is at most ``limit``, without a search for it."""
    return len(costs) > 0 and _log_capital(costs, weights, bet, limit) >= -math.log(1 - confidence)


def _log_capital(costs: Floats, weights: Floats, bet: float, mean: float) -> float:
    return float(np.log1p(bet * (mean * weights - costs)).sum())
