"""Accuracy against cost: every width on every input, then the router beside random and oracle routers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sharcs.evaluation.curve import curve_policies
from sharcs.evaluation.quality import Qualities, quality_of
from sharcs.evaluation.reliability import CoveragePoint, abstaining
from sharcs_runtime.policy import RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike

    from sharcs.evaluation.answers import AllAnswers, Routed
    from sharcs.model.base import RoutedModel
    from sharcs_runtime.onnx import OnnxRunner
    from sharcs_runtime.ways import Doubles, Numbers

RANDOM_DRAWS = 20


@dataclass(frozen=True, slots=True)
class FullPoint:
    """The full network on every input, without a router.

    Attributes:
        accuracy: Fraction of the answers that are right.
        flops: Mean FLOPs of an input.
    """

    accuracy: float
    flops: float


@dataclass(frozen=True, slots=True)
class RoutedPoint:
    """A policy.

    Attributes:
        accuracy: Fraction of the answers that are right.
        flops: Mean FLOPs of an input.
        flops_ratio: Mean FLOPs over the full network's.
    """

    accuracy: float
    flops: float
    flops_ratio: float


@dataclass(frozen=True, slots=True)
class WidthPoint:
    """One width.

    Attributes:
        width: The width, or the name of a sub-network that has none.
        accuracy: Fraction of all inputs on which it is right.
        flops_ratio: Mean FLOPs over the full network's, of all inputs.
        share: Fraction of the inputs that it answers with routing.
        accuracy_routed: Fraction of these whose answer is right, or None if there are none.
    """

    width: float | str
    accuracy: float
    flops_ratio: float
    share: float
    accuracy_routed: float | None


@dataclass(frozen=True, slots=True)
class RandomPoint:
    """A random router.

    Attributes:
        accuracy: Fraction of the answers that are right, mean over the draws.
    """

    accuracy: float


@dataclass(frozen=True, slots=True)
class OraclePoint:
    """A router that knows the truth.

    Attributes:
        accuracy: Fraction of the inputs on which some width is right.
        flops_ratio: Mean FLOPs over the full network's.
    """

    accuracy: float
    flops_ratio: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A policy of the curve.

    Attributes:
        cost_weight: The policy's.
        escalation_threshold: The policy's.
        flops_ratio: Mean FLOPs over the full network's.
        accuracy: Fraction of the answers that are right.
    """

    cost_weight: float
    escalation_threshold: float | Mapping[str, float] | None
    flops_ratio: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """Accuracy against cost: a policy beside each width, and beside routers that know nothing or everything.

    Attributes:
        samples: Number of inputs.
        metric: What is called accuracy below.
        full: The full network on every input.
        routed: The policy, or the one width that was asked for.
        widths: Each width, the cheapest first.
        random: The same shares at random; where the policy escalates, which pays for a narrow answer and a full one,
            as many inputs more to full width as the same cost allows.
        oracle: The cheapest width that is right, and the cheapest of all where none is.
        curve: Policies from all inputs narrow to all inputs full.
        quality: F1, confusions and more, of the policy's answers and the full network's.
        abstaining: What comes of giving no answer below a score, if that was asked for.
    """

    samples: int
    metric: str
    full: FullPoint
    routed: RoutedPoint
    widths: list[WidthPoint]
    random: RandomPoint
    oracle: OraclePoint
    curve: list[CurvePoint]
    quality: Qualities
    abstaining: CoveragePoint | None = None

    def to_dict(self) -> dict[str, Any]:
        """Write it as plain values, the JSON of ``sharcs evaluate``."""
        return asdict(self)


def accuracy_report(
    model: RoutedModel | OnnxRunner,
    answers: AllAnswers,
    labels: ArrayLike,
    width: float | str | None = None,
    seed: int = 0,
    abstain_below: float | None = None,
) -> AccuracyReport:
    """Compare the configured policy with the full network, random routing and an oracle.

    Args:
        model: The routed network, or the runner of an export, for its widths and policy.
        answers: From :func:`sharcs.evaluation.widths.run_all_widths`, or
            :func:`sharcs.evaluation.exported.run_export`.
        labels: True classes, ``[inputs]``; of several labels, zeros and ones ``[inputs, labels]``, all of which have
            to be right.
        width: Routes every input to this width; by default the configured policy routes.
        seed: For the random router.
        abstain_below: A score below which no answer is given; by default all are given.

    Raises:
        InputError: If the labels don't fit the answers.
    """
    answers = answers.labelled(labels)
    config = model.config
    policy = config.routing_policy
    correct = answers.way_right[:, : len(answers.names)]
    costs, full_cost = answers.costs, float(answers.full_costs.mean())
    rows = np.arange(len(answers))

    def point(routed: Routed) -> RoutedPoint:
        cost = float(routed.cost.mean())
        return RoutedPoint(float(routed.right.mean()), cost, cost / full_cost)

    chosen = policy if width is None else RoutingPolicy(start=answers.names[config.index_of(width)])
    routed = answers.route([chosen])[0]
    draws = [float(correct[rows, drawn].mean()) for drawn in _random_routings(costs, routed, seed)]
    # The first that is right; the cheapest, which is the first, where none is.
    oracle = correct.argmax(axis=1)
    per_width = []
    for index, known in enumerate(config.keys):
        here = routed.answered_by == index
        per_width.append(
            WidthPoint(
                width=known,
                accuracy=float(correct[:, index].mean()),
                flops_ratio=float(costs[:, index].mean()) / full_cost,
                share=float(here.mean()),
                accuracy_routed=float(routed.right[here].mean()) if here.any() else None,
            )
        )
    curve = []
    for other in curve_policies(answers, policy):
        at = point(answers.route([other])[0])
        curve.append(CurvePoint(other.cost_weight, other.escalation_threshold, at.flops_ratio, at.accuracy))
    names, last = config.id2label or {}, len(answers.names) - 1
    quality = Qualities(
        routed=quality_of(answers, routed.answer, routed.score, names),
        full=quality_of(answers, answers.full_predictions, answers.scores[:, last], names),
    )
    return AccuracyReport(
        samples=len(answers),
        metric="accuracy",
        full=FullPoint(float(correct[:, -1].mean()), full_cost),
        routed=point(routed),
        widths=per_width,
        random=RandomPoint(sum(draws) / len(draws)),
        oracle=OraclePoint(float(correct.any(axis=1).mean()), float(costs[rows, oracle].mean()) / full_cost),
        curve=curve,
        quality=quality,
        abstaining=None if abstain_below is None else abstaining(routed.score, routed.right, abstain_below),
    )


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
