"""The policies of the curve of accuracy against cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from sharcs.config import RoutingPolicy
    from sharcs.evaluation.widths import Costs, WidthOutputs

__all__ = ["curve_policies", "curve_weights"]

CURVE_POINTS = 41


def curve_policies(outputs: WidthOutputs, costs: Costs, policy: RoutingPolicy) -> list[RoutingPolicy]:
    """Choose the policies that sweep from all inputs narrow to all inputs full, by the configured policy's means.

    Where it escalates, the threshold moves, along the quantiles of the confidences; else the cost weight.
    """
    if not policy.escalates:
        weights = curve_weights(outputs.router_logits, costs.relative)
        return [replace(policy, cost_weight=weight) for weight in weights]
    confidences = outputs.scores[:, :-1].double().flatten()
    if len(confidences) == 0:
        return [policy]
    inner = torch.quantile(confidences, torch.linspace(0, 1, CURVE_POINTS).double()).tolist()
    thresholds = sorted({0.0, *inner, policy.escalation_threshold or 0.0, 1.0})
    return [replace(policy, escalation_threshold=threshold) for threshold in thresholds]


def curve_weights(router_logits: Tensor, relative: Tensor) -> list[float]:
    """Choose the cost weights that sweep the policy evenly from all inputs narrow to all inputs full.

    An input changes between two widths where their scores' difference equals λ times their costs' difference, so the
    quantiles of those λ move equal shares of the inputs.

    Returns:
        Ascending weights, with 0, the paper's policy, among them.
    """
    if relative.shape[1] == 1:
        return [0.0]
    scores = torch.sigmoid(router_logits.double())
    critical = []
    for low in range(relative.shape[1]):
        for high in range(low + 1, relative.shape[1]):
            critical.append((scores[:, low] - scores[:, high]) / (relative[:, low] - relative[:, high]))
    every = torch.cat(critical)
    inner = torch.quantile(every[:: max(1, len(every) // 1_000_000)], torch.linspace(0, 1, CURVE_POINTS).double())
    ends = torch.tensor([every.min() - 1e-6, every.max() + 1e-6, 0.0])
    return sorted(set(torch.cat([inner, ends]).tolist()))
