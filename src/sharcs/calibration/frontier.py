"""The settings that a calibration leaves with the model: each budget's best policy, without the data at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.config import policy_of

if TYPE_CHECKING:
    from sharcs.config import RoutingPolicy
    from sharcs.evaluation.answers import AllAnswers

FRONTIER_POINTS = 33
SURELY = 2.33  # standard deviations: one error in a hundred


def build_frontier(answers: AllAnswers, policies: list[RoutingPolicy]) -> list[dict[str, float | None]]:
    """Keep the policies that nothing cheaper, or as cheap, agrees with the full network better than, blending apart.

    Agreement says more about accuracy than as many labels do where the full network is the best there is. Where it is
    not, labels show it: a policy that is surely less accurate than a cheaper one goes.

    Args:
        answers: Of all rows at hand.
        policies: Those to choose from.

    Returns:
        By ascending cost, at most 33: the policy's settings, ``cost_ratio`` (mean FLOPs over the full network's),
        ``disagreement`` and, with labels, ``accuracy_drop``. They are what was observed, not bounds.
    """
    points: list[tuple[float, dict[str, float | None]]] = []
    unblended = answers.unblended()
    full = float(answers.full_costs.mean())
    for piece in answers.in_pieces(list(dict.fromkeys(policies))):
        routed = answers.route(piece)
        # Blending gives other answers than the full network's for the sake of accuracy, which is no loss.
        risks = unblended.route(piece).disagrees.mean(axis=1)
        drops = routed.lost.mean(axis=1) - routed.gained.mean(axis=1)
        for index, policy in enumerate(piece):
            point = {
                **policy.to_dict(),
                "cost_ratio": float(routed.cost[index].mean()) / full,
                "disagreement": float(routed.disagrees[index].mean()),
                "accuracy_drop": None if answers.labels is None else float(drops[index]),
            }
            points.append((float(risks[index]), point))
    kept: list[tuple[float, dict[str, float | None]]] = []
    for risk, point in sorted(points, key=lambda rated: (rated[1]["cost_ratio"], rated[0])):
        if not kept or risk < kept[-1][0]:
            kept.append((risk, point))
    chosen = np.unique(np.linspace(0, len(kept) - 1, FRONTIER_POINTS).round().astype(int))
    return _without_surely_worse(answers, [kept[index][1] for index in chosen])


def _without_surely_worse(answers: AllAnswers, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop points, by ascending cost, that are less accurate than one before, by a paired test (McNemar's)."""
    if answers.labels is None:
        return points
    routed = answers.route([policy_of(point) for point in points])
    gains = routed.gained.astype(np.int8) - routed.lost  # over the full network, -1 to 1: [points, rows]
    kept: list[int] = []
    for index in range(len(points)):
        ahead = gains[kept] - gains[index]
        if not (ahead.sum(axis=1) > SURELY * np.sqrt(np.abs(ahead).sum(axis=1))).any():
            kept.append(index)
    return [points[index] for index in kept]
