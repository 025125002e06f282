"""Watch, while a model serves, whether its narrow answers still agree with the full network as promised.

A share of the inputs is checked: the full network runs on them too. For every input a coin decides beforehand, of one
answered at full width too, so that the checked inputs are a random sample of the traffic. That corrects for share and
for inputs that can't disagree, which cost nothing to check: the rate among the checked inputs is the rate of all.

The alarm may be looked at after every input. For "the rate is at most p", the mixture of likelihood ratios
∫ ∏ (θ/p or (1−θ)/(1−p)) dπ(θ) over rates θ above p is a non-negative supermartingale that begins at 1, whatever the
rates up to p are, so it ever reaches 1/α with probability at most α (Ville 1939; Robbins, Ann. Math. Stat. 1970;
Howard et al., Ann. Stat. 2021). The rates that it refuses lie below a lower bound that holds at all times at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from sharcs.config import RoutingPolicy
from sharcs.errors import InputError
from sharcs.model.context import select_rows
from sharcs.tasks.labels import require_one_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sharcs.model.outputs import SharcsOutput
    from sharcs.model.text import SharcsForSequenceClassification

__all__ = ["DriftMonitor", "log_evidence"]

# The mixture is a Beta distribution, cut off below the rate under test. Its weight lies within some five times the
# promise, where changes are hard to see; the heavy end still finds a broken network in a handful of checks.
MIXTURE_A = 0.5
MIXTURE_B_TIMES_RATE = 0.3
BISECTIONS = 40


def log_evidence(disagreements: Any, checked: Any, rate: float, promise: float) -> NDArray[np.float64]:
    """Log of the mixture of likelihood ratios against "the rate is at most ``rate``".

    Args:
        disagreements: So many of the checked inputs, of any shape.
        checked: Inputs checked, of the same shape.
        rate: Between 0 and 1.
        promise: Scales the mixture; the same for every ``rate``.

    Returns:
        As the arguments. If the truth is at most ``rate``, it ever reaches log(1/α) with probability at most α.
    """
    k = np.asarray(disagreements, dtype=float)
    n = np.asarray(checked, dtype=float)
    a, b = MIXTURE_A, max(MIXTURE_A, MIXTURE_B_TIMES_RATE / promise)
    with np.errstate(divide="ignore"):  # where all weight is below the rate: no evidence
        above = np.log(special.betaincc(k + a, n - k + b, rate)) - np.log(special.betaincc(a, b, rate))
    total = special.betaln(k + a, n - k + b) - special.betaln(a, b) + above
    found: NDArray[np.float64] = total - special.xlogy(k, rate) - special.xlog1py(n - k, -rate)
    return found


class DriftMonitor:
    """Raises an alarm when narrow answers disagree with the full network more often than promised.

    Args:
        max_disagreement: The promise: at most this share of all inputs gets another answer than the full network's,
            as in ``sharcs calibrate --max-disagreement``.
        confidence: While the promise holds, the alarm stays off for ever with at least this probability.
        check_share: Share of the inputs that are checked. Time to detection goes with its inverse.
        seed: Draws the inputs to check; the same seed draws the same.
        fall_back: Whether :meth:`predict` runs every input at full width after an alarm.

    Attributes:
        alarm: Whether the promise has been refuted; it stays on.
        seen: Inputs so far.
        checked: Those that were checked.
        disagreements: Those of the checked that disagreed.

    Raises:
        InputError: If a setting is out of range.
    """

    def __init__(
        self,
        max_disagreement: float,
        confidence: float = 0.95,
        check_share: float = 0.05,
        seed: int = 0,
        fall_back: bool = False,
    ) -> None:
        """Check the settings."""
        for name, value in (("max_disagreement", max_disagreement), ("confidence", confidence)):
            if not 0 < value < 1:
                raise InputError(f"{name} {value:g}: has to be between 0 and 1")
        if not 0 < check_share <= 1:
            raise InputError(f"check_share {check_share:g}: has to be above 0 and at most 1")
        self.max_disagreement = max_disagreement
        self.confidence = confidence
        self.check_share = check_share
        self.fall_back = fall_back
        self.alarm = False
        self.seen = self.checked = self.disagreements = 0
        # Of its own, so that the coins don't repeat what the caller draws from the same seed.
        self._random = np.random.default_rng((seed, *b"drift"))

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
        evidence = log_evidence(disagreements[new], checked[new], self.max_disagreement, self.max_disagreement)
        self.alarm = self.alarm or bool((evidence >= -math.log(1 - self.confidence)).any())

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
            evidence = log_evidence(self.disagreements, self.checked, middle, self.max_disagreement)
            low, high = (middle, high) if evidence >= -math.log(1 - self.confidence) else (low, middle)
        return low

    def policy(self, model: SharcsForSequenceClassification) -> RoutingPolicy:
        """Return the model's policy, and after an alarm one that sends every input through the full network."""
        if not self.alarm:
            return model.config.routing_policy
        return RoutingPolicy(start=model.config.names[-1])

    @torch.inference_mode()
    def predict(self, model: SharcsForSequenceClassification, batch: dict[str, Tensor]) -> SharcsOutput:
        """Answer a batch by the model's policy, and run the full width on the inputs that are due.

        Args:
            model: The routed network, in evaluation mode.
            batch: Its inputs, padded, on its device; no labels.

        Returns:
            The policy's answers; the full width's after an alarm, if the monitor falls back.

        Raises:
            InputError: If the model doesn't name one class for each input; use :meth:`draw` and :meth:`record`.
        """
        require_one_label(model.problem_type, "DriftMonitor.predict")
        if self.alarm and self.fall_back:
            return model(**batch, width=1.0)  # type: ignore[no-any-return]
        outputs: SharcsOutput = model(**batch)
        assert outputs.logits is not None
        assert outputs.width_index is not None
        size = len(outputs.logits)
        due = self.draw(size)
        narrow = (outputs.width_index < len(model.config.widths) - 1).cpu().numpy()
        disagreed = np.zeros(size, dtype=bool)
        rows = torch.from_numpy(np.flatnonzero(due & narrow)).to(outputs.logits.device)
        if len(rows):
            full = model(**{name: select_rows(value, rows, size) for name, value in batch.items()}, width=1.0)
            other = full.logits.argmax(dim=-1) != outputs.logits[rows].argmax(dim=-1)
            disagreed[rows.cpu().numpy()] = other.cpu().numpy()
        self.record(disagreed[due])
        return outputs
