"""The policies of the curve of accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sharcs.evaluation.answers import AllAnswers
    from sharcs_runtime.policy import RoutingPolicy

CURVE_POINTS = 41
MOST_VALUES = 1_000_000  # that quantiles are taken of


def curve_policies(answers: AllAnswers, policy: RoutingPolicy) -> list[RoutingPolicy]:
    """Choose the policies that sweep from all inputs narrow to all inputs full, by the configured policy's means.

    Where it escalates, the threshold moves, along the quantiles of the confidences; else the cost weight. Thresholds
    of several sub-networks move together, and the configured policy comes first.
    """
    if not policy.escalates:
        return [replace(policy, cost_weight=weight) for weight in curve_weights(answers)]
    confidences = answers.way_scores[policy.signal][:, : len(answers.names) - 1].astype(np.float64)
    if confidences.size == 0:
        return [policy]
    inner = np.quantile(confidences, np.linspace(0, 1, CURVE_POINTS)).tolist()
    configured = policy.escalation_threshold
    if isinstance(configured, Mapping):
        together = [dict.fromkeys(configured, threshold) for threshold in sorted({0.0, *inner, 1.0})]
        return [policy, *(replace(policy, escalation_threshold=thresholds) for thresholds in together)]
    thresholds = sorted({0.0, *inner, configured or 0.0, 1.0})
    return [replace(policy, escalation_threshold=threshold) for threshold in thresholds]


def curve_weights(answers: AllAnswers) -> list[float]:
    """Choose the cost weights that sweep the policy evenly from all inputs narrow to all inputs full.

    An input changes between two widths where their scores' difference equals λ times their costs' difference, so the
    quantiles of those λ move equal shares of the inputs.

    Returns:
        Ascending weights, with 0, the paper's policy, among them.
    """
    networks = len(answers.names)
    if networks == 1:
        return [0.0]
    relative = answers.relative_costs
    scores = 1 / (1 + np.exp(-answers.router_logits.astype(np.float64)))
    critical = [
        (scores[:, low] - scores[:, high]) / (relative[:, low] - relative[:, high])
        for low in range(networks)
        for high in range(low + 1, networks)
    ]
    every = np.concatenate(critical)
    inner = np.quantile(every[:: max(1, len(every) // MOST_VALUES)], np.linspace(0, 1, CURVE_POINTS))
    return sorted({*inner.tolist(), float(every.min()) - 1e-6, float(every.max()) + 1e-6, 0.0})
