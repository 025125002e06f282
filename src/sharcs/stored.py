"""Policies out of a calibration that a configuration holds."""

from __future__ import annotations

import math
from typing import Any

from sharcs.errors import InputError
from sharcs_runtime.policy import RoutingPolicy


def policy_of(point: dict[str, Any]) -> RoutingPolicy:
    """Read a point of a calibration's frontier as the policy that it is."""
    return RoutingPolicy.from_dict(
        {name: point[name] for name in RoutingPolicy.__dataclass_fields__ if name in point}
    )


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
