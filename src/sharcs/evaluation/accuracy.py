"""Accuracy against cost: every width on every input, then the router beside random and oracle routers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sharcs.evaluation.curve import curve_policies
from sharcs.evaluation.widths import Costs, WidthOutputs, route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from sharcs.model.base import RoutedModel

__all__ = ["accuracy_report"]

RANDOM_DRAWS = 20


def accuracy_report(
    model: RoutedModel,
    outputs: WidthOutputs,
    labels: Tensor,
    width: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the configured policy with the full network, random routing and an oracle.

    Args:
        model: The routed network, for its widths, policy and costs.
        outputs: From :func:`run_all_widths`.
        labels: True classes, int64 ``[inputs]``; of several labels, zeros and ones ``[inputs, labels]``, all of which
            have to be right.
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
    widths, policy = list(model.config.widths), model.config.routing_policy
    labels = outputs.truth(labels)
    correct = outputs.predictions == labels.unsqueeze(1)  # [inputs, widths]
    costs = Costs.of(model, outputs.lengths)

    def point(first: Tensor, last: Tensor) -> dict[str, float]:
        spent = costs.spent(first, last).mean()
        return {
            "accuracy": (outputs.answers(first, last) == labels).double().mean().item(),
            "flops": spent.item(),
            "flops_ratio": (spent / costs.full.mean()).item(),
        }

    if width is None:
        first, last = route(outputs, costs, policy)
    else:
        first = last = torch.full((len(labels),), model.config.index_of(width))
    draws = [point(drawn, drawn)["accuracy"] for drawn in _random_routings(costs, first, last, seed)]
    right_or_last = torch.cat([correct, ~correct.any(dim=1, keepdim=True)], dim=1).int().argmax(dim=1)
    oracle = torch.where(right_or_last == len(widths), 0, right_or_last)
    right = outputs.answers(first, last) == labels
    per_width = []
    for index, known in enumerate(widths):
        here = last == index
        per_width.append(
            {
                "width": known,
                "accuracy": correct[:, index].double().mean().item(),
                "flops_ratio": (costs.widths[:, index].mean() / costs.full.mean()).item(),
                "share": here.double().mean().item(),
                "accuracy_routed": right[here].double().mean().item() if here.any() else None,
            }
        )
    curve: list[dict[str, Any]] = []
    for other in curve_policies(outputs, costs, policy):
        at = point(*route(outputs, costs, other))
        settings = {"cost_weight": other.cost_weight, "escalation_threshold": other.escalation_threshold}
        curve.append({**settings, "flops_ratio": at["flops_ratio"], "accuracy": at["accuracy"]})
    return {
        "samples": len(labels),
        "metric": "accuracy",
        "full": {"accuracy": correct[:, -1].double().mean().item(), "flops": costs.full.mean().item()},
        "routed": point(first, last),
        "widths": per_width,
        "random": {"accuracy": sum(draws) / len(draws)},
        "oracle": {key: value for key, value in point(oracle, oracle).items() if key != "flops"},
        "curve": curve,
    }


def _random_routings(costs: Costs, first: Tensor, last: Tensor, seed: int) -> Iterator[Tensor]:
    """Draw routings of the same shares, and of the same mean cost where some inputs ran two widths."""
    generator = torch.Generator().manual_seed(seed)
    full, escalated = costs.widths.shape[1] - 1, not torch.equal(first, last)
    target = costs.spent(first, last).sum()
    for _ in range(RANDOM_DRAWS):
        drawn = last[torch.randperm(len(last), generator=generator)]
        if escalated:
            spent = costs.spent(drawn, drawn)
            order = torch.randperm(len(last), generator=generator)
            added = (costs.widths[:, full] - spent)[order].cumsum(0)
            drawn[order[added <= target - spent.sum()]] = full
        yield drawn
