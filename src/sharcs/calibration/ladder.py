"""A ladder of policies, for a service that narrows under load: each rung keeps a limit of its own, all at once.

The rows that choose fix one policy for each rung. The others test them in order, from the strictest limit on, each
at the full error, until one fails (fixed-sequence testing): for a rung that breaks its limit to pass, the first such
one has to pass its own test, so the chance that any does is at most the error, without a correction.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.calibration.bounds import rate_p, rate_upper
from sharcs.calibration.calibrate import Calibration, calibration_of, check_rows
from sharcs.calibration.choice import Choice, Constraint, SequenceTest, split_rows
from sharcs.calibration.policies import all_policies
from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharcs.evaluation.answers import AllAnswers
    from sharcs_runtime.policy import RoutingPolicy

# How sure the rows that choose have to be that a rung keeps what its test will let pass: a rung that fails costs all
# rungs above it.
CAUTION = 0.8


def check_limits(limits: Sequence[float]) -> None:
    """Refuse limits that make no ladder.

    Raises:
        InputError: If they do not ascend between 0 and 1.
    """
    if not limits or any(low >= high for low, high in pairwise(limits)) or not 0 < limits[0] <= limits[-1] < 1:
        given = ",".join(f"{limit:g}" for limit in limits)
        raise InputError(f"`ladder` {given}: limits of disagreement have to ascend between 0 and 1, like 0.02,0.05")


def calibrate_ladder(
    answers: AllAnswers, limits: Sequence[float], classes: int, confidence: float = 0.95, seed: int = 0
) -> list[Calibration]:
    """Choose a policy for each limit of disagreement with the full network.

    Args:
        answers: Of independent rows; see :func:`sharcs.calibration.calibrate.calibrate`.
        limits: Ascending, between 0 and 1.
        classes: Number of classes.
        confidence: With which all rungs keep their limits at once.
        seed: Draws the rows that choose.

    Returns:
        The rungs that passed their tests, from the strictest on; where none did, one whose constraint is not met.

    Raises:
        InputError: As for :func:`~sharcs.calibration.calibrate.calibrate`, and if the limits make no ladder.
    """
    check_limits(limits)
    constraints = [Constraint("max_disagreement", limit, confidence) for limit in limits]
    check_rows(answers, constraints[0])
    answers = answers.unblended()  # an average with another answer is not the full network's
    chosen, tested = split_rows(len(answers), seed)
    choosing, rows = answers.take(chosen), answers.take(tested)
    policies = all_policies(choosing)
    rungs: list[Calibration] = []
    for constraint, policy in zip(constraints, _cheapest(choosing, policies, constraints, len(rows)), strict=True):
        test = SequenceTest(choosing, rows, constraint, classes)
        passed = test.last_passing([policy])
        if passed is None and rungs:
            break
        rungs.append(calibration_of(answers, constraint, Choice(passed, test, tested, policies)))
        if passed is None:
            break
    return [rungs[0], *(replace(rung, frontier=[]) for rung in rungs[1:])]


def ladder_record(rungs: Sequence[Calibration]) -> list[dict[str, Any]]:
    """Write the rungs as plain values, for ``config.calibration["ladder"]``."""
    left_out = ("frontier", "kind", "confidence", "per_class", "met")
    return [{name: value for name, value in rung.record().items() if name not in left_out} for rung in rungs]


def _cheapest(
    choosing: AllAnswers, policies: list[RoutingPolicy], constraints: list[Constraint], rows: int
) -> list[RoutingPolicy]:
    """Take for each limit the cheapest policy that is likely to pass its test on so many rows."""
    costs: list[float] = []
    lost: list[int] = []
    for piece in choosing.in_pieces(policies):
        routed = choosing.route(piece)
        costs += routed.cost.mean(axis=1).tolist()
        lost += routed.disagrees.sum(axis=1).tolist()
    order = np.argsort(costs, kind="stable").tolist()
    full = next(policy for policy in policies if policy.start == choosing.names[-1])
    expected = [math.ceil(rate_upper(count, len(choosing), CAUTION) * rows) for count in lost]

    def likely(constraint: Constraint) -> RoutingPolicy:
        error = 1 - constraint.confidence
        fits = (index for index in order if rate_p(expected[index], rows, constraint.limit) <= error)
        return next((policies[index] for index in fits), full)

    return [likely(constraint) for constraint in constraints]
