"""What is made of the outcomes of a load: pure, so that a test knows every value by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from sharcs_serve.load import GOOD_SHARE, OK, REFUSED, Outcome

HOPELESS = 0.9  # below this share in time, at two rates, higher ones are not tried
MOST_OTHERS = 0.1  # processors that others may have taken of the machine
MOST_LOAD = 0.5  # load average before a part


def quantile(seconds: Sequence[float], share: float) -> float | None:
    """Take a percentile in milliseconds; None of nothing."""
    return 1000 * float(np.quantile(seconds, share)) if len(seconds) else None


def counts(outcomes: Sequence[Outcome], seconds: float, target: float) -> dict[str, Any]:
    """Sum up a load: latencies count from when a request was due.

    Args:
        outcomes: Of all requests.
        seconds: Over which they were due.
        target: Seconds in which an answer is good.
    """
    answered = [outcome.seconds for outcome in outcomes if outcome.status == OK]
    refused = [outcome for outcome in outcomes if outcome.status == REFUSED]
    good = sum(each <= target for each in answered)
    return {
        "requests": len(outcomes),
        "answered": len(answered),
        "refused": len(refused),
        "lost": len(outcomes) - len(answered) - len(refused),
        "degraded": sum(outcome.degraded for outcome in outcomes),
        "without_retry_after": sum(outcome.come_again is None for outcome in refused),
        "p50_ms": quantile(answered, 0.5),
        "p99_ms": quantile(answered, 0.99),
        "refusal_p99_ms": quantile([outcome.seconds for outcome in refused], 0.99),
        "goodput": good / seconds,
        "good_share": good / max(1, len(outcomes)),
    }


def kept_rate(points: Mapping[float, float]) -> float:
    """Find the highest rate up to which every rate kept the target; 0 where the lowest did not.

    Args:
        points: Share of the offered requests that were in time, by rate.
    """
    kept = 0.0
    for rate in sorted(points):
        if points[rate] < GOOD_SHARE:
            break
        kept = rate
    return kept


def is_hopeless(points: Mapping[float, float]) -> bool:
    """Tell whether higher rates need not be tried."""
    return sum(share < HOPELESS for share in points.values()) >= 2


def recovery_seconds(outcomes: Sequence[Outcome], times: Sequence[float]) -> float:
    """Say when, after an overload, the last request was due that was refused or degraded; 0 where none was."""
    bad = [due for outcome, due in zip(outcomes, times, strict=True) if outcome.status != OK or outcome.degraded]
    return float(max(bad, default=0.0))


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> float | None:
    """Divide means; None where theirs is nothing."""
    below = fmean(theirs)
    return fmean(ours) / below if below else None


def busy(load_before: float, others: Iterable[float]) -> list[str]:
    """Say why nothing can be concluded; empty where the machine was ours.

    Args:
        load_before: Load average of a minute, before the part began.
        others: Processors that other processes took during each cell.
    """
    taken = list(others)
    reasons = []
    if load_before > MOST_LOAD:
        reasons.append(f"load average {load_before:.2f} before the part, {MOST_LOAD} at most")
    if taken and median(taken) > MOST_OTHERS:
        reasons.append(f"other processes took {median(taken):.2f} processors, {MOST_OTHERS} at most")
    return reasons
