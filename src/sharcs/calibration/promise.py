"""The policy that a training ends with, and what held-out rows say of it: read once, after the choice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.calibration.bounds import difference_upper, rate_upper
from sharcs.calibration.policies import policy_paths
from sharcs_runtime.policy import RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharcs.evaluation.answers import AllAnswers

CONFIDENCE = 0.95
LEAST_ROWS = 50  # in each half: fewer say nothing


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
        loss_bound: By how much the policy may be less accurate than the full network, at most.
        disagreement: Share of answers that are not the full network's.
        disagreement_bound: What that may be, at most.
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
    loss_bound: float
    disagreement: float
    disagreement_bound: float

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
            f"with {100 * self.confidence:g}% confidence at most {100 * max(0.0, self.loss_bound):.1f} points are "
            f"lost, and at most {100 * self.disagreement_bound:.1f}% of the answers are not the full network's",
            f"accuracy of each sub-network alone, %: {alone}",
        ]
        return [*found, self._advice()]

    def _advice(self) -> str:
        if self.full_accuracy <= self.majority:
            return "the network has not learned: it is right no more often than the most frequent class"
        if self.cost_ratio > 0.5:
            return "little is saved; unlabelled texts like those to come (--unlabelled) would help most"
        return "for another trade, run 'sharcs calibrate' on rows like those to come"


def halves(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Divide rows at random: those that choose and those that are read once after it, ascending."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def choose_default(answers: AllAnswers, seed: int = 0) -> Promise | None:
    """Choose the cheapest policy that loses nothing on half of the rows, and bound it on the other half.

    Args:
        answers: Of labelled rows that nothing was trained on.
        seed: Divides them.

    Returns:
        None where there are too few rows.
    """
    chosen_on, read_once = halves(len(answers), seed)
    if len(chosen_on) < LEAST_ROWS:
        return None
    policy = cheapest_without_loss(answers.take(chosen_on))
    return promise_of(answers.take(read_once), policy)


def cheapest_without_loss(answers: AllAnswers) -> RoutingPolicy:
    """Choose the cheapest of all policies that are right as often as the full network; that one is among them."""
    full = RoutingPolicy(start=answers.names[-1])
    tried: Sequence[RoutingPolicy] = [policy for path in policy_paths(answers) for policy in path]
    best, least = full, float(answers.full_costs.mean())
    wanted = int(answers.full_right.sum())
    for piece in answers.in_pieces(tried):
        routed = answers.route(piece)
        for policy, right, cost in zip(piece, routed.right.sum(axis=1), routed.cost.mean(axis=1), strict=True):
            if right >= wanted and cost < least:
                best, least = policy, float(cost)
    return best


def promise_of(answers: AllAnswers, policy: RoutingPolicy) -> Promise:
    """Say what rows show of a policy that they had no part in choosing."""
    routed = answers.route([policy])[0]
    rows = len(answers)
    lost, gained = int(routed.lost.sum()), int(routed.gained.sum())
    differing = int(routed.disagrees.sum())
    right = answers.way_right[:, : len(answers.names)].mean(axis=0)
    return Promise(
        policy=policy.to_dict(),
        rows=rows,
        confidence=CONFIDENCE,
        cost_ratio=float(routed.cost.mean() / answers.full_costs.mean()),
        accuracy=float(routed.right.mean()),
        full_accuracy=float(answers.full_right.mean()),
        majority=float(np.bincount(np.asarray(answers.labels)).max() / rows),
        names=list(answers.names),
        accuracies=right.tolist(),
        loss_bound=difference_upper(lost, gained, rows, CONFIDENCE),
        disagreement=differing / rows,
        disagreement_bound=rate_upper(differing, rows, CONFIDENCE),
    )
