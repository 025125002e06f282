"""The settings that a calibration leaves with the model: each budget's best policy, without the data at hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.config import RoutingPolicy
from sharcs.errors import InputError

if TYPE_CHECKING:
    from sharcs.calibration.trials import Trial

__all__ = ["build_frontier", "policy_for_budget", "policy_of"]

FRONTIER_POINTS = 33
SURELY = 2.33  # standard deviations: one error in a hundred


def build_frontier(trial: Trial, policies: list[RoutingPolicy]) -> list[dict[str, float | None]]:
    """Keep the policies that nothing cheaper, or as cheap, agrees with the full network better than, blending apart.

    Agreement says more about accuracy than as many labels do where the full network is the best there is. Where it is
    not, labels show it: a policy that is surely less accurate than a cheaper one goes.

    Args:
        trial: All rows at hand.
        policies: Those to choose from.

    Returns:
        By ascending cost, at most 33: the policy's settings, ``cost_ratio`` (mean FLOPs over the full network's),
        ``disagreement`` and, with labels, ``accuracy_drop``. They are what was observed, not bounds.
    """
    points: list[tuple[float, dict[str, float | None]]] = []
    unblended = trial.unblended()
    full = float(trial.costs.full.mean())
    for piece in trial.in_pieces(list(dict.fromkeys(policies))):
        applied = trial.apply(piece)
        # Blending gives other answers than the full network's for the sake of accuracy, which is no loss.
        risks = unblended.apply(piece).disagrees.mean(axis=1)
        drops = applied.lost.mean(axis=1) - applied.gained.mean(axis=1)
        for index, policy in enumerate(piece):
            point = {
                "cost_weight": policy.cost_weight,
                "escalation_threshold": policy.escalation_threshold,
                "blend": policy.blend,
                "cost_ratio": float(applied.flops[index].mean()) / full,
                "disagreement": float(applied.disagrees[index].mean()),
                "accuracy_drop": None if trial.labels is None else float(drops[index]),
            }
            points.append((float(risks[index]), point))
    kept: list[tuple[float, dict[str, float | None]]] = []
    for risk, point in sorted(points, key=lambda rated: (rated[1]["cost_ratio"], rated[0])):
        if not kept or risk < kept[-1][0]:
            kept.append((risk, point))
    chosen = np.unique(np.linspace(0, len(kept) - 1, FRONTIER_POINTS).round().astype(int))
    return _without_surely_worse(trial, [kept[index][1] for index in chosen])


def policy_of(point: dict[str, Any]) -> RoutingPolicy:
    """Read a frontier's point as the policy that it is."""
    return RoutingPolicy(point["cost_weight"], point["escalation_threshold"], point["blend"])


def _without_surely_worse(trial: Trial, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop points, by ascending cost, that are less accurate than one before, by a paired test (McNemar's)."""
    if trial.labels is None:
        return points
    applied = trial.apply([policy_of(point) for point in points])
    gains = applied.gained.astype(np.int8) - applied.lost  # over the full network, -1 to 1: [points, rows]
    kept: list[int] = []
    for index in range(len(points)):
        ahead = gains[kept] - gains[index]
        if not (ahead.sum(axis=1) > SURELY * np.sqrt(np.abs(ahead).sum(axis=1))).any():
            kept.append(index)
    return [points[index] for index in kept]


def policy_for_budget(calibration: dict[str, Any] | None, budget: float) -> RoutingPolicy:
    """Take from a stored calibration the policy that spends the most within a budget.

    Args:
        calibration: ``config.calibration``.
        budget: Mean FLOPs over the full network's, on inputs such as those of the calibration.

    Raises:
        InputError: If there is no calibration, or the budget is no number or below the cheapest policy's cost.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < math.inf:
        raise InputError(f"budget {budget}: has to be a number above 0, like 0.5 for half of the FLOPs")
    frontier = (calibration or {}).get("frontier")
    if not frontier:
        raise InputError("budget: the model was never calibrated; run 'sharcs calibrate' on texts like those to come")
    within = [point for point in frontier if point["cost_ratio"] <= budget]
    if not within:
        least = frontier[0]["cost_ratio"]
        raise InputError(
            f"budget {budget:g}: the cheapest policy costs {least:.3f} of the full network; give at least that"
        )
    return policy_of(within[-1])
