"""A ladder of policies, for a service that narrows under load: each rung keeps a limit of its own, all at once.

Each rung is calibrated by itself, at its share of the error: of three rungs a third each. The chance that any of them
breaks its limit is then at most the error, whatever they have in common (Bonferroni).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sharcs.calibration.calibrate import Calibration, calibrate
from sharcs.calibration.choice import Constraint
from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharcs.evaluation.answers import AllAnswers


def check_limits(limits: Sequence[float]) -> None:
    """Refuse limits that make no ladder.

    Raises:
        InputError: If they do not ascend between 0 and 1.
    """
    if not limits or any(low >= high for low, high in pairwise(limits)) or not 0 < limits[0] <= limits[-1] < 1:
        given = ",".join(f"{limit:g}" for limit in limits)
        raise InputError(f"`ladder` {given}: limits of disagreement have to ascend between 0 and 1, like 0.02,0.05")


def constraint_of_each(limit: float, limits: Sequence[float], confidence: float) -> Constraint:
    """Write what a rung is tested for: its limit, at its share of the error."""
    return Constraint("max_disagreement", limit, 1 - (1 - confidence) / len(limits))


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
        The rungs, from the strictest on, with bounds at their share of the error. One that is no cheaper than the one
        before is left out, and none comes after the strictest if nothing keeps that: its constraint is then not met.

    Raises:
        InputError: As for :func:`~sharcs.calibration.calibrate.calibrate`, and if the limits make no ladder.
    """
    check_limits(limits)
    rungs: list[Calibration] = []
    for limit in limits:
        found = calibrate(answers, constraint_of_each(limit, limits, confidence), classes, seed)
        # What it keeps by itself more surely, it keeps with this confidence along with the others.
        found = replace(found, constraint=replace(found.constraint, confidence=confidence))
        if not rungs or (found.met and found.cost_ratio < rungs[-1].cost_ratio):
            rungs.append(found)
        if not rungs[0].met:
            break
    return [rungs[0], *(replace(rung, frontier=[]) for rung in rungs[1:])]


def ladder_record(rungs: Sequence[Calibration]) -> list[dict[str, Any]]:
    """Write the rungs as plain values, for ``config.calibration["ladder"]``."""
    left_out = ("frontier", "kind", "confidence", "per_class", "met")
    return [{name: value for name, value in rung.record().items() if name not in left_out} for rung in rungs]
