"""What a configuration holds of policies: those of a calibration, and what a training promises of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Promise:
    """What is known of a policy from rows that had no part in choosing it.

    Attributes:
        policy: The policy, as plain values.
        rows: How many rows these are.
        confidence: Of each bound by itself.
        cost_ratio: Mean FLOPs over the full network's.
        accuracy: Of the policy.
        full_accuracy: Of the full network.
        majority: Of who always names the most frequent class.
        names: Of the sub-networks, the cheapest first.
        accuracies: Of each of them alone.
        disagreement: Share of answers that are not the full network's.
        loss_bound: By how much the policy may be less accurate than the full network, at most; None where another
            quantity was to be kept within a limit, by the same rows.
        disagreement_bound: What the disagreement may be, at most, or None.
        cost_bound: What the cost ratio may be, at most, where that was to be kept within a limit.
    """

    policy: dict[str, Any]
    rows: int
    confidence: float
    cost_ratio: float
    accuracy: float
    full_accuracy: float
    majority: float
    names: list[str]
    accuracies: list[float]
    disagreement: float
    loss_bound: float | None = None
    disagreement_bound: float | None = None
    cost_bound: float | None = None

    def record(self) -> dict[str, Any]:
        """Write it as plain values, for ``config.promise``."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Say it in a few lines, the last of which is advice."""
        alone = ", ".join(
            f"{name} {100 * value:.1f}" for name, value in zip(self.names, self.accuracies, strict=True)
        )
        found = [
            f"on {self.rows:,} held-out rows: {100 * self.accuracy:.1f}% right at {100 * self.cost_ratio:.1f}% of "
            f"the full network's FLOPs (full network {100 * self.full_accuracy:.1f}%)",
            f"with {100 * self.confidence:g}% confidence {self._bounds()}",
            f"accuracy of each sub-network alone, %: {alone}",
        ]
        return [*found, self._advice()]

    def _bounds(self) -> str:
        bounds = []
        if self.loss_bound is not None:
            bounds.append(f"at most {100 * max(0.0, self.loss_bound):.1f} points are lost")
        if self.disagreement_bound is not None:
            bounds.append(f"at most {100 * self.disagreement_bound:.1f}% of the answers are not the full network's")
        if self.cost_bound is not None:
            bounds.append(f"at most {100 * self.cost_bound:.1f}% of the full network's FLOPs are spent")
        return ", and ".join(bounds)

    def _advice(self) -> str:
        if self.full_accuracy <= self.majority:
            return "the network has not learned: it is right no more often than the most frequent class"
        if self.cost_ratio > 0.5:
            return "little is saved; unlabelled texts like those to come (--unlabelled) would help most"
        return "for another trade, run 'sharcs calibrate' on rows like those to come"
