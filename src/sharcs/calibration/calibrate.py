"""Calibrate a model: the policy that meets a constraint, what speaks for it, and whom it costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.calibration.choice import Choice, Constraint, choose
from sharcs.calibration.frontier import build_frontier
from sharcs.errors import InputError
from sharcs_runtime.policy import RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sharcs.evaluation.answers import AllAnswers, Routed

MIN_ROWS = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """A policy, and what speaks for it.

    Attributes:
        constraint: What had to be met.
        policy: The policy that meets it; if none does, the one that sends every input through the full network.
        met: Whether one does.
        rows: All rows.
        rows_tested: Those that bound and observations are of.
        observed: The constrained quantity of the policy, of the worst class where every class is bounded.
        bound: Its upper bound at the confidence; None if the constraint is not met.
        cost_ratio: Mean FLOPs over the full network's.
        disagreement: Share of answers that are not the full network's.
        accuracy: Of the policy, or None without labels.
        full_accuracy: Of the full network, or None.
        shares: Fraction of the inputs that each width answers.
        frontier: See :func:`sharcs.calibration.frontier.build_frontier`.
        numbers: What the network computed in: ``float32``, ``int8``, ...
        runtime: What ran it: ``torch`` or ``onnxruntime``.
        routed: The tested rows as the policy routes them.
        tested: The tested rows' indices.
    """

    constraint: Constraint
    policy: RoutingPolicy
    met: bool
    rows: int
    rows_tested: int
    observed: float
    bound: float | None
    cost_ratio: float
    disagreement: float
    accuracy: float | None
    full_accuracy: float | None
    shares: list[float]
    frontier: list[dict[str, float | None]]
    numbers: str
    runtime: str
    routed: Routed = field(repr=False)
    tested: NDArray[np.int64] = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Write it as plain values, for ``config.calibration``."""
        left_out = ("constraint", "policy", "routed", "tested")
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
        return {**asdict(self.constraint), "policy": self.policy.to_dict(), **plain}


def calibrate(
    answers: AllAnswers,
    constraint: Constraint,
    classes: int,
    seed: int = 0,
    choosing_rows: NDArray[np.int64] | None = None,
) -> Calibration:
    """Choose the policy: the cheapest that keeps a loss within its limit, or the best that keeps a cost within it.

    Args:
        answers: Of independent rows from where the inputs will come from; with milliseconds for ``latency_ms``, and
            with labels for ``max_accuracy_drop``.
        constraint: What has to be met.
        classes: Number of classes, every one of which has to be bounded if ``per_class``: the true ones for
            accuracy, those that the full network names for disagreement.
        seed: Draws the rows that choose. Not to be tried out: the guarantee is for one calibration.
        choosing_rows: The indices of rows that choose, ascending, where some had a part in the training; None to draw
            a fifth of all.

    Raises:
        InputError: If there are fewer than 10 rows, one width only, ``per_class`` of sets of labels, or no labels
            where they are needed.
    """
    _check_rows(answers, constraint)
    if constraint.kind == "max_disagreement":
        answers = answers.unblended()  # an average with another answer is not the full network's
    return _calibration_of(answers, constraint, choose(answers, constraint, classes, seed, choosing_rows))


def _check_rows(answers: AllAnswers, constraint: Constraint) -> None:
    """Refuse rows that a constraint can't be tested on.

    Raises:
        InputError: As :func:`calibrate` says.
    """
    if answers.label_sets is not None and constraint.per_class:
        raise InputError("`per_class`: the model answers with sets of labels, and not with a class; leave it out")
    if len(answers.names) < 2:
        raise InputError("the network has the width 1.0 only, so nothing can be chosen; train it with two widths")
    if len(answers) < MIN_ROWS:
        raise InputError(f"{len(answers)} rows: too few to calibrate on; give at least {MIN_ROWS}, better thousands")
    if constraint.kind == "max_accuracy_drop" and answers.labels is None:
        raise InputError("`max_accuracy_drop`: needs labels; label the rows, or give `max_disagreement`")
    if constraint.kind == "latency_ms" and answers.way_milliseconds is None:
        raise InputError("latency_ms: needs times; measure them with sharcs.calibration.latency.measure_times")


def _calibration_of(answers: AllAnswers, constraint: Constraint, choice: Choice) -> Calibration:
    """Collect what speaks for a choice, of the answers that it was made from."""
    rows = choice.test.rows
    policy = RoutingPolicy(start=answers.names[-1]) if choice.policy is None else choice.policy
    routed = rows.route([policy])[0]
    observed, bound = choice.test.evidence(policy)
    full_accuracy = None if rows.labels is None else float(rows.full_right.mean())
    drop = float(routed.lost.mean() - routed.gained.mean())
    return Calibration(
        constraint=constraint,
        policy=policy,
        met=choice.policy is not None,
        rows=len(answers),
        rows_tested=len(choice.tested),
        observed=observed,
        bound=None if choice.policy is None else bound,
        cost_ratio=float(routed.cost.mean() / rows.full_costs.mean()),
        disagreement=float(routed.disagrees.mean()),
        accuracy=None if full_accuracy is None else full_accuracy - drop,
        full_accuracy=full_accuracy,
        shares=[float((routed.answered_by == index).mean()) for index in range(len(rows.names))],
        frontier=build_frontier(answers, choice.tried),
        numbers=answers.numbers,
        runtime=answers.runtime,
        routed=routed,
        tested=choice.tested,
    )


@dataclass(frozen=True, slots=True)
class Loss:
    """What a policy costs the rows of a class, or of a column's value.

    Attributes:
        value: The class, or the column's value.
        rows: How many there are.
        disagreement: Fraction of their answers that are not the full network's.
        accuracy_drop: The full network's accuracy on them less the policy's, or None without labels.
    """

    value: str
    rows: int
    disagreement: float
    accuracy_drop: float | None


def losses_by(routed: Routed, values: Sequence[str]) -> list[Loss]:
    """Break a policy's loss down by class, or by a column, the worst first.

    Args:
        routed: Rows as the policy routes them.
        values: The class, or the column's value, of each.
    """
    names = sorted(set(values))
    number_of = {name: number for number, name in enumerate(names)}
    group = np.array([number_of[value] for value in values])
    rows = np.bincount(group)

    def share(of: NDArray[Any]) -> list[float]:
        return (np.bincount(group, weights=of, minlength=len(names)) / rows).tolist()  # type: ignore[no-any-return]

    drops: list[Any] = [None] * len(names)
    if routed.answers.labels is not None:
        drops = share(routed.lost.astype(int) - routed.gained)
    found = [
        Loss(name, int(count), unlike, drop)
        for name, count, unlike, drop in zip(names, rows, share(routed.disagrees), drops, strict=True)
    ]
    return sorted(found, key=lambda loss: (loss.accuracy_drop or 0.0, loss.disagreement), reverse=True)
