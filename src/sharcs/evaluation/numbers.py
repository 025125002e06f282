"""Errors of a regression against cost: every width on every input, and the router's choice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs_runtime.policy import RoutingPolicy, choose_width, flops

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

    from sharcs.config import SharcsConfig
    from sharcs_runtime.bundle import Bundle
    from sharcs_runtime.ways import Doubles, Numbers, Singles


@dataclass(frozen=True, slots=True)
class ErrorPoint:
    """How far numbers are from the truth, and what they cost.

    Attributes:
        name: What answers: ``full``, ``routed``, or a sub-network.
        mae: Mean absolute error.
        rmse: Root of the mean squared error.
        r2: Share of the variance that is explained; None where all true numbers are alike.
        flops_ratio: Mean FLOPs over the full network's.
        share: Fraction of the inputs that a sub-network answers with routing; None of the others.
    """

    name: str
    mae: float
    rmse: float
    r2: float | None
    flops_ratio: float
    share: float | None = None


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """Errors against cost.

    Attributes:
        samples: Number of inputs.
        full: The full network on every input.
        routed: The policy, or the one width that was asked for.
        widths: Each sub-network on every input.
    """

    samples: int
    full: ErrorPoint
    routed: ErrorPoint
    widths: list[ErrorPoint]

    def to_dict(self) -> dict[str, Any]:
        """Write it as plain values, the JSON of ``sharcs evaluate``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AllNumbers:
    """What every sub-network answers to every input.

    Attributes:
        values: float64 ``[inputs, networks]``.
        router_logits: float32 ``[inputs, networks]``.
        lengths: Real tokens, int64 ``[inputs]``.
        costs: FLOPs of each sub-network, and last of the plain full network: float64 ``[inputs, networks + 1]``.
    """

    values: Doubles
    router_logits: Singles
    lengths: Numbers
    costs: Doubles


def record_numbers(
    batches: Iterable[tuple[Numbers, Singles, Singles]], lengths: Numbers, networks: int, cost_coefficients: Doubles
) -> AllNumbers:
    """Record what sub-networks answer; see :func:`sharcs.evaluation.record.record_answers`.

    Args:
        batches: The inputs' indices, the numbers of every sub-network ``[networks, batch, 1]``, the router's logits.
        lengths: Real tokens, ``[inputs]``; read when all batches are there.
        networks: How many sub-networks there are.
        cost_coefficients: Of ways, of which the first are the sub-networks alone, and last of the plain full network.
    """
    values = np.zeros((len(lengths), networks))
    router_logits = np.zeros((len(lengths), networks), np.float32)
    for rows, logits, routing in batches:
        values[rows], router_logits[rows] = logits[..., 0].T, routing
    of_each = np.concatenate([cost_coefficients[:networks], cost_coefficients[-1:]])
    return AllNumbers(values, router_logits, lengths, flops(of_each, lengths))


def error_report(
    config: SharcsConfig | Bundle, answers: AllNumbers, truth: ArrayLike, width: float | str | None = None
) -> ErrorReport:
    """Compare the configured policy with the full network and with each width.

    Args:
        config: Of the network: sub-networks and policy.
        answers: From :func:`record_numbers`.
        truth: The true numbers, ``[inputs]``.
        width: Routes every input to this width; by default the configured policy routes.
    """
    true = np.asarray(truth, np.float64).reshape(-1)
    names, rows = tuple(config.names), np.arange(len(true))
    full_costs = answers.costs[:, -1]
    policy = config.routing_policy if width is None else RoutingPolicy(start=names[config.index_of(width)])
    relative = answers.costs[:, :-1] / full_costs[:, None]
    chosen = choose_width(answers.router_logits, relative, policy, names)

    def point(name: str, values: Doubles, costs: Doubles, share: float | None = None) -> ErrorPoint:
        # Here, because it takes a second to import.
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        varies = bool((true != true[0]).any())
        return ErrorPoint(
            name=name,
            mae=float(mean_absolute_error(true, values)),
            rmse=float(root_mean_squared_error(true, values)),
            r2=float(r2_score(true, values)) if varies else None,
            flops_ratio=float(costs.mean() / full_costs.mean()),
            share=share,
        )

    return ErrorReport(
        samples=len(true),
        full=point("full", answers.values[:, -1], full_costs),
        routed=point("routed", answers.values[rows, chosen], answers.costs[rows, chosen]),
        widths=[
            point(name, answers.values[:, index], answers.costs[:, index], float((chosen == index).mean()))
            for index, name in enumerate(names)
        ],
    )
