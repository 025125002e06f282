"""Accuracy against cost: every width on every input, then the router beside random and oracle routers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sharcs.evaluation.curve import curve_policies
from sharcs_runtime.policy import RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from sharcs.evaluation.answers import AllAnswers, Routed
    from sharcs.model.base import RoutedModel
    from sharcs_runtime.onnx import OnnxRunner
    from sharcs_runtime.ways import Doubles, Numbers

RANDOM_DRAWS = 20


def accuracy_report(
    model: RoutedModel | OnnxRunner,
    answers: AllAnswers,
    labels: ArrayLike,
    width: float | str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the configured policy with the full network, random routing and an oracle.

    Args:
        model: The routed network, or the runner of an export, for its widths and policy.
        answers: From :func:`sharcs.evaluation.widths.run_all_widths`, or
            :func:`sharcs.evaluation.exported.run_export`.
        labels: True classes, ``[inputs]``; of several labels, zeros and ones ``[inputs, labels]``, all of which have
            to be right.
        width: Routes every input to this width; by default the configured policy routes.
        seed: For the random router.

    Returns:
        The JSON of ``sharcs evaluate``. ``full`` is width 1.0 on every input without a router; ``random`` sends the
        same shares at random (mean of 20 draws), and where the policy escalates, which pays for a narrow answer and
        a full one, as many inputs more to full width as the same cost allows; ``oracle`` takes the cheapest width
        that is right, and the cheapest of all where none is. Accuracies are fractions, costs FLOPs an input.

    Raises:
        InputError: If the labels don't fit the answers.
    """
    answers = answers.labelled(labels)
    config = model.config
    policy = config.routing_policy
    correct = answers.way_right[:, : len(answers.names)]
    costs, full_cost = answers.costs, float(answers.full_costs.mean())
    rows = np.arange(len(answers))

    def point(routed: Routed) -> dict[str, float]:
        cost = float(routed.cost.mean())
        return {"accuracy": float(routed.right.mean()), "flops": cost, "flops_ratio": cost / full_cost}

    chosen = policy if width is None else RoutingPolicy(start=answers.names[config.index_of(width)])
    routed = answers.route([chosen])[0]
    draws = [float(correct[rows, drawn].mean()) for drawn in _random_routings(costs, routed, seed)]
    # The first that is right; the cheapest, which is the first, where none is.
    oracle = correct.argmax(axis=1)
    per_width = []
    for index, known in enumerate(config.keys):
        here = routed.answered_by == index
        per_width.append(
            {
                "width": known,
                "accuracy": float(correct[:, index].mean()),
                "flops_ratio": float(costs[:, index].mean()) / full_cost,
                "share": float(here.mean()),
                "accuracy_routed": float(routed.right[here].mean()) if here.any() else None,
            }
        )
    curve: list[dict[str, Any]] = []
    for other in curve_policies(answers, policy):
        at = point(answers.route([other])[0])
        settings = {"cost_weight": other.cost_weight, "escalation_threshold": other.escalation_threshold}
        curve.append({**settings, "flops_ratio": at["flops_ratio"], "accuracy": at["accuracy"]})
    return {
        "samples": len(answers),
        "metric": "accuracy",
        "full": {"accuracy": float(correct[:, -1].mean()), "flops": full_cost},
        "routed": point(routed),
        "widths": per_width,
        "random": {"accuracy": sum(draws) / len(draws)},
        "oracle": {
            "accuracy": float(correct.any(axis=1).mean()),
            "flops_ratio": float(costs[rows, oracle].mean()) / full_cost,
        },
        "curve": curve,
    }


def _random_routings(costs: Doubles, routed: Routed, seed: int) -> Iterator[Numbers]:
    """Draw sub-networks in the same shares, and of the same mean cost where some inputs ran several.

    Args:
        costs: Of each sub-network, ``[inputs, networks]``.
        routed: Inputs as a policy routes them.
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)  # whose draws the records are of

    def shuffled() -> Numbers:
        order: Numbers = torch.randperm(len(costs), generator=generator).numpy()
        return order

    rows, full = np.arange(len(costs)), costs.shape[1] - 1
    escalated = not np.array_equal(routed.start, routed.answered_by)
    for _ in range(RANDOM_DRAWS):
        drawn = routed.answered_by[shuffled()]
        if escalated:
            spent = costs[rows, drawn]
            order = shuffled()
            added = np.cumsum((costs[:, full] - spent)[order])
            drawn[order[added <= routed.cost.sum() - spent.sum()]] = full
        yield drawn
