"""The policy that a training ends with, and what held-out rows say of it: read once, after the choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.calibration.bounds import difference_upper, rate_upper
from sharcs.calibration.policies import all_policies
from sharcs.stored import BOUNDS, Promise
from sharcs_runtime.policy import RoutingPolicy

if TYPE_CHECKING:
    from sharcs.calibration.choice import Constraint
    from sharcs.evaluation.answers import AllAnswers

CONFIDENCE = 0.95
LEAST_ROWS = 50  # in each half: fewer say nothing
# Share of the rows that a training's policy may get wrong where the full network is right, whatever it gains on
# others (benchmarks/policy_study.py).
MOST_LOST = 0.015


def halves(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Divide rows at random: those that choose and those that are read once after it, ascending."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def choose_default(answers: AllAnswers, seed: int = 0) -> Promise | None:
    """Choose the cheapest policy that loses nothing on half of the rows, and bound it on the other half.

    Args:
        answers: Of labelled rows that nothing was trained on.
        seed: Divides them.

    Returns:
        None where there are too few rows.
    """
    chosen_on, read_once = halves(len(answers), seed)
    if len(chosen_on) < LEAST_ROWS:
        return None
    policy = cheapest_without_loss(answers.take(chosen_on))
    return promise_of(answers.take(read_once), policy)


def cheapest_without_loss(answers: AllAnswers) -> RoutingPolicy:
    """Choose the cheapest of the policies that are expected to lose nothing: the full network is one of them.

    A policy's answers have to give the true class as much probability in the mean as the full network's do: how many
    are right says the same, but with so much chance in it that of many policies a poor one is chosen. With and
    without blending is tried.

    Args:
        answers: Of labelled rows.
    """
    full = best = RoutingPolicy(start=answers.names[-1])
    least, wanted = float(answers.full_costs.mean()), answers.route([full])[0].label_score.mean()
    for each in (answers, answers.unblended()) if answers.blend else (answers,):
        for piece in each.in_pieces(all_policies(each)):
            routed = each.route(piece)
            found = routed.label_score.mean(axis=1), routed.lost.mean(axis=1), routed.cost.mean(axis=1)
            for policy, expected, lost, cost in zip(piece, *found, strict=True):
                if expected >= wanted and lost <= MOST_LOST and cost < least:
                    best, least = policy, float(cost)
    return best


def promise_of(answers: AllAnswers, policy: RoutingPolicy, limit: Constraint | None = None) -> Promise:
    """Say what rows show of a policy that they had no part in choosing, or that they have passed as within a limit.

    Args:
        answers: Of the rows.
        policy: The policy.
        limit: What the rows have tested policies for, one after the other. For all else the policy is one that they
            chose, so that the limit is the only bound.
    """
    if not policy.blend:
        answers = answers.unblended()  # they were recorded with a blend, which this policy has none of
    routed = answers.route([policy])[0]
    rows = len(answers)
    lost, gained = int(routed.lost.sum()), int(routed.gained.sum())
    differing = int(routed.disagrees.sum())
    bounds = {"loss_bound": difference_upper(lost, gained, rows, CONFIDENCE)}
    bounds["disagreement_bound"] = rate_upper(differing, rows, CONFIDENCE)
    if limit is not None:
        bounds = {BOUNDS[limit.kind]: limit.limit}
    right = answers.way_right[:, : len(answers.names)].mean(axis=0)
    return Promise(
        policy=policy.to_dict(),
        rows=rows,
        confidence=CONFIDENCE if limit is None else limit.confidence,
        cost_ratio=float(routed.cost.mean() / answers.full_costs.mean()),
        accuracy=float(routed.right.mean()),
        full_accuracy=float(answers.full_right.mean()),
        majority=float(np.bincount(np.asarray(answers.labels)).max() / rows),
        names=list(answers.names),
        accuracies=right.tolist(),
        disagreement=differing / rows,
        numbers=answers.numbers,
        runtime=answers.runtime,
        **bounds,
    )
