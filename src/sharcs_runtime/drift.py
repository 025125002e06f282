"""Count, while a network serves, how often its answers disagree with the full network's, and raise an alarm.

The alarm may be looked at after every input. For "the rate is at most p", the mixture of likelihood ratios
∫ ∏ (θ/p or (1−θ)/(1−p)) dπ(θ) over rates θ above p is a non-negative supermartingale that begins at 1, whatever the
rates up to p are, so it ever reaches 1/α with probability at most α (Ville 1939; Robbins, Ann. Math. Stat. 1970;
Howard et al., Ann. Stat. 2021). The rates that it refuses lie below a lower bound that holds at all times at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# The mixture is a Beta distribution, cut off below the rate under test. Its weight lies within some five times the
# promise, where changes are hard to see; the heavy end still finds a broken network in a handful of checks.
MIXTURE_A = 0.5
MIXTURE_B_TIMES_RATE = 0.3
BISECTIONS = 40
TERMS = 10_000  # of the continued fraction, at most: it converges in about the square root of the larger parameter


def log_evidence(disagreements: int, checked: int, rate: float, promise: float) -> float:
    """Log of the mixture of likelihood ratios against "the rate is at most ``rate``".

    Args:
        disagreements: So many of the checked inputs.
        checked: Inputs checked.
        rate: Between 0 and 1.
        promise: Scales the mixture; the same for every ``rate``.

    Returns:
        If the truth is at most ``rate``, it ever reaches log(1/α) with probability at most α.
    """
    a, b = MIXTURE_A, max(MIXTURE_A, MIXTURE_B_TIMES_RATE / promise)
    others = checked - disagreements
    above = log_beta_above(disagreements + a, others + b, rate) - log_beta_above(a, b, rate)
    total = _log_beta(disagreements + a, others + b) - _log_beta(a, b) + above
    return total - disagreements * math.log(rate) - others * math.log1p(-rate)


def log_beta_above(a: float, b: float, x: float) -> float:
    """Log of the chance that a Beta(a, b) variable is above x, by the continued fraction of the incomplete beta.

    Abramowitz and Stegun, 26.5.8, evaluated from the front (Lentz 1976); minus infinity where it underflows.
    """
    log_front = a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)
    if x > (a + 1) / (a + b + 2):
        return log_front - math.log(b) + math.log(_fraction(b, a, 1 - x))
    below = math.exp(log_front - math.log(a)) * _fraction(a, b, x)
    return math.log1p(-below) if below < 1 else -math.inf


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            step = c * d
            value *= step
        if abs(step - 1) < 1e-15:
            break
    return value


@dataclass(eq=False)
class DisagreementCounter:
    """Raises an alarm when answers disagree with the full network more often than promised.

    A share of the inputs is checked: the full network runs on them too. For every input a coin decides beforehand, of
    one answered by the full network too, so that the checked inputs are a random sample of the traffic.

    Args:
        max_disagreement: The promise: at most this share of all inputs gets another answer than the full network's,
            as in ``sharcs calibrate --max-disagreement``.
        confidence: While the promise holds, the alarm stays off for ever with at least this probability.
        check_share: Share of the inputs that are checked. Time to detection goes with its inverse.
        seed: Draws the inputs to check; the same seed draws the same.

    Attributes:
        alarm: Whether the promise has been refuted; it stays on.
        seen: Inputs so far.
        checked: Those that were checked.
        disagreements: Those of the checked that disagreed.

    Raises:
        InputError: If a setting is out of range.
    """

    max_disagreement: float
    confidence: float = 0.95
    check_share: float = 0.05
    seed: int = 0
    alarm: bool = field(default=False, init=False)
    seen: int = field(default=0, init=False)
    checked: int = field(default=0, init=False)
    disagreements: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("max_disagreement", "confidence"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise InputError(f"{name} {value:g}: has to be between 0 and 1")
        if not 0 < self.check_share <= 1:
            raise InputError(f"check_share {self.check_share:g}: has to be above 0 and at most 1")
        # Of its own, so that the coins don't repeat what the caller draws from the same seed.
        self._random = np.random.default_rng((self.seed, *b"drift"))

    def draw(self, count: int) -> NDArray[np.bool_]:
        """Tell which of the next inputs to check, before they are answered: bool ``[count]``."""
        self.seen += count
        return self._random.random(count) < self.check_share

    def record(self, disagreed: Sequence[bool] | NDArray[np.bool_]) -> None:
        """Take the checked inputs' outcomes, in order.

        Args:
            disagreed: For each input that :meth:`draw` named, whether its answer was another than the full
                network's; False for one that the full width answered.
        """
        new = np.asarray(disagreed, dtype=bool)
        disagreements = self.disagreements + new.cumsum()
        checked = self.checked + np.arange(1, len(new) + 1)
        if len(new):
            self.disagreements, self.checked = int(disagreements[-1]), int(checked[-1])
        # Evidence only grows at a disagreement.
        self.alarm = self.alarm or any(
            self._refutes(self.max_disagreement, int(wrong), int(of))
            for wrong, of in zip(disagreements[new], checked[new], strict=True)
        )

    @property
    def estimate(self) -> float | None:
        """Share of all inputs whose answer is not the full network's; None before the first check."""
        return self.disagreements / self.checked if self.checked else None

    @property
    def lower_bound(self) -> float:
        """What the rate of disagreement is above: wrong at any time ever with probability at most 1 − confidence.

        It is the bound of this moment; the alarm, which stays on, is that it was ever above the promise.
        """
        low, high = 0.0, self.estimate or 0.0
        for _ in range(BISECTIONS if high else 0):
            middle = (low + high) / 2
            refuted = self._refutes(middle, self.disagreements, self.checked)
            low, high = (middle, high) if refuted else (low, middle)
        return low

    def _refutes(self, rate: float, disagreements: int, checked: int) -> bool:
        """Tell whether counts refute that the rate is at most ``rate``."""
        evidence = log_evidence(disagreements, checked, rate, self.max_disagreement)
        return evidence >= -math.log(1 - self.confidence)
