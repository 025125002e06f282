"""Count, while a network serves, how often its answers disagree with the full network's, and raise an alarm.

The alarm may be looked at after every input. For "the rate is at most p", the mixture of likelihood ratios
∫ ∏ (θ/p or (1−θ)/(1−p)) dπ(θ) over rates θ above p is a non-negative supermartingale that begins at 1, whatever the
rates up to p are, so it ever reaches 1/α with probability at most α (Ville 1939; Robbins, Ann. Math. Stat. 1970;
Howard et al., Ann. Stat. 2021). The rates that it refuses lie below a lower bound that holds at all times at once.
"""

from __future__ import annotations

import math
import threading
import uuid
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sharcs_runtime.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Counts = dict[str, tuple[int, int, int]]  # seen, checked and disagreeing inputs, by process or batch

# The mixture is a Beta distribution, cut off below the rate under test. Its weight lies within some five times the
# promise, where changes are hard to see; the heavy end still finds a broken network in a handful of checks.
MIXTURE_A = 0.5
MIXTURE_B_TIMES_RATE = 0.3
BISECTIONS = 40
# Whose counts: those of one process, which grow, or of one batch.
PROCESS, BATCH = "process:", "batch:"
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


def bisected(is_below: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Narrow an interval down to the point up to which ``is_below`` holds."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low, high


@dataclass(eq=False)
class DisagreementCounter:
    """Raises an alarm when answers disagree with the full network more often than promised.

    A share of the inputs is checked: the full network runs on them too. For every input a coin decides beforehand, of
    one answered by the full network too, so that the checked inputs are a random sample of the traffic. Any number of
    threads may use one counter; processes have one each and merge them.

    Args:
        max_disagreement: The promise: at most this share of all inputs gets another answer than the full network's,
            as in ``sharcs calibrate --max-disagreement``.
        confidence: While the promise holds, the alarm stays off for ever with at least this probability.
        check_share: Share of the inputs that are checked. Time to detection goes with its inverse.
        seed: Draws the inputs to check; the same seed draws the same.

    Attributes:
        alarm: Whether the promise has been refuted; it stays on.

    Raises:
        InputError: If a setting is out of range.
    """

    max_disagreement: float
    confidence: float = 0.95
    check_share: float = 0.05
    seed: int = 0
    alarm: bool = field(default=False, init=False)

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
        self._drawn = 0
        self._counts: Counts = {}
        self._totals = (0, 0, 0)  # their sums, set at once
        self._own = f"{PROCESS}{uuid.uuid4().hex}"  # whose counts only grow
        self._lock = threading.Lock()

    @property
    def seen(self) -> int:
        """Inputs so far."""
        return self._totals[0]

    @property
    def checked(self) -> int:
        """Those that were checked."""
        return self._totals[1]

    @property
    def disagreements(self) -> int:
        """Those of the checked that disagreed."""
        return self._totals[2]

    def draw(self, count: int, batch: str | None = None) -> NDArray[np.bool_]:
        """Tell which of the next inputs to check, before they are answered: bool ``[count]``.

        Args:
            count: How many inputs there are.
            batch: A name of these inputs, where they may come twice: of those that are recorded, none is checked
                again. Each name is kept.
        """
        with self._lock:
            if batch is not None and BATCH + batch in self._counts:
                return np.zeros(count, np.bool_)
            self._drawn += count
            if batch is None:
                self._add(self._own, count, 0, 0)
            due: NDArray[np.bool_] = self._random.random(count) < self.check_share
            return due

    def record(
        self, disagreed: Sequence[bool] | NDArray[np.bool_], batch: str | None = None, count: int | None = None
    ) -> None:
        """Take the checked inputs' outcomes, in order.

        Args:
            disagreed: For each input that :meth:`draw` named, whether its answer was another than the full
                network's; False for one that the full width answered.
            batch: The name that was given to :meth:`draw`. A second record of it counts for nothing.
            count: How many inputs the batch has, with a name; by default those that were checked.
        """
        new = np.asarray(disagreed, dtype=bool)
        with self._lock:
            if batch is not None and BATCH + batch in self._counts:
                return
            _, checked, wrong = self._totals
            disagreements, positions = wrong + new.cumsum(), checked + np.arange(1, len(new) + 1)
            seen = 0 if batch is None else len(new) if count is None else count
            self._add(self._own if batch is None else BATCH + batch, seen, len(new), int(new.sum()))
            # Evidence only grows at a disagreement.
            self.alarm = self.alarm or any(
                self._refutes(self.max_disagreement, int(wrong), int(of))
                for wrong, of in zip(disagreements[new], positions[new], strict=True)
            )

    def merge(self, other: DisagreementCounter) -> None:
        """Take in what another counter has counted, of another process or of an earlier time.

        What both have, a batch by its name or a counter that was taken in before, counts once. The alarm is that of
        all counts together. The other one's is not taken over: of many counters that each may raise a false alarm,
        some one would do so more often than is promised.

        Raises:
            InputError: If it counts for another promise.
        """
        for name in ("max_disagreement", "confidence"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise InputError(f"{name} {theirs:g}: this one has {mine:g}; merge counters of one promise")
        with other._lock:
            theirs = dict(other._counts)
        with self._lock:
            for key, counts in theirs.items():
                before = self._counts.get(key, (0, 0, 0))
                if key not in self._counts or (key.startswith(PROCESS) and counts > before):
                    self._add(key, *(new - old for new, old in zip(counts, before, strict=True)))
            _, checked, wrong = self._totals
            self.alarm = self.alarm or (wrong > 0 and self._refutes(self.max_disagreement, wrong, checked))

    def to_dict(self) -> dict[str, Any]:
        """Write settings and counts as plain values, for JSON."""
        with self._lock:
            settings = {setting.name: getattr(self, setting.name) for setting in fields(self) if setting.init}
            counts = {key: list(values) for key, values in self._counts.items()}
            return {**settings, "alarm": self.alarm, "drawn": self._drawn, "counts": counts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote, and go on from there; any number of processes may.

        Raises:
            InputError: If it is none of a counter.
        """
        try:
            content = dict(values)
            alarm, drawn, written = content.pop("alarm"), content.pop("drawn"), content.pop("counts")
            counter = cls(**content)
            counter.alarm, counter._drawn = bool(alarm), int(drawn)
            for key, numbers in written.items():
                counter._add(str(key), *_checked_counts(*numbers))
            counter._random.bit_generator.advance(counter._drawn)  # type: ignore[attr-defined]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"values: are no state of a {cls.__name__} ({first_line(error)})") from error
        return counter

    @property
    def estimate(self) -> float | None:
        """Share of all inputs whose answer is not the full network's; None before the first check."""
        _, checked, disagreements = self._totals
        return disagreements / checked if checked else None

    @property
    def lower_bound(self) -> float:
        """What the rate of disagreement is above: wrong at any time ever with probability at most 1 − confidence.

        It is the bound of this moment; the alarm, which stays on, is that it was ever above the promise.
        """
        _, checked, disagreements = self._totals
        if not disagreements:
            return 0.0
        return bisected(lambda rate: self._refutes(rate, disagreements, checked), 0.0, disagreements / checked)[0]

    def _add(self, key: str, seen: int, checked: int, disagreements: int) -> None:
        before, total = self._counts.get(key, (0, 0, 0)), self._totals
        self._counts[key] = (before[0] + seen, before[1] + checked, before[2] + disagreements)
        self._totals = (total[0] + seen, total[1] + checked, total[2] + disagreements)

    def _refutes(self, rate: float, disagreements: int, checked: int) -> bool:
        """Tell whether counts refute that the rate is at most ``rate``."""
        evidence = log_evidence(disagreements, checked, rate, self.max_disagreement)
        return evidence >= -math.log(1 - self.confidence)


def _checked_counts(seen: int, checked: int, disagreements: int) -> tuple[int, int, int]:
    counts = (seen, checked, disagreements)
    if not all(type(count) is int for count in counts) or not 0 <= disagreements <= checked:
        raise ValueError(f"{list(counts)} are no counts of seen, checked and disagreeing inputs")
    return counts
