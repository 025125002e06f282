"""Choose the routing policy that meets a budget or a limit of loss, with a guarantee that the choice doesn't void.

Split fixed-sequence testing of "Learn then Test" (Angelopoulos et al., arXiv 2110.01052): a fifth of the rows, drawn
at random, picks a sequence of policies; the others test it, one policy after the other, up to the first that fails.
For the testing rows the sequence is fixed, so with each test at error α the chance that any policy passes which does
not meet the constraint is at most α, however many are in the sequence: for one to pass, the first bad one has to.
Policies with thresholds taken from all rows, or the best of many tested at once, would have no such guarantee.

The tests hold for any number of rows (:mod:`sharcs.calibration.bounds`): binomial for disagreement with the full
network; for the loss of accuracy, which is a difference in the same rows, the exact paired test, or, if the rows that
choose show no gains that could make up for losses, the binomial test of the losses alone; betting for mean FLOPs and
milliseconds. The worst class is within a limit if every class is, so a policy passes when all classes' tests refuse
at α each; no correction is needed (an intersection-union test, Berger 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sharcs.calibration.bounds import (
    bet_size,
    difference_p,
    difference_upper,
    mean_is_below,
    mean_upper,
    rate_p,
    rate_upper,
)
from sharcs.calibration.policies import policy_paths
from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from sharcs.config import RoutingPolicy
    from sharcs.evaluation.answers import AllAnswers, Routed

CHOOSING_SHARE = 0.2
COSTS = ("budget", "latency_ms")
LOSSES = ("max_accuracy_drop", "max_disagreement")
# How close to the limit sequences are compared, as multiples of it: at several points, since a fifth of the rows
# shows too little at one.
COST_LEVELS = (0.8, 0.9, 1.0, 1.1)
LOSS_LEVELS = (0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a policy has to meet.

    Attributes:
        kind: ``budget`` (mean FLOPs over the full network's), ``latency_ms`` (mean milliseconds of one input),
            ``max_accuracy_drop`` (accuracy of the full network less the policy's), or ``max_disagreement`` (share of
            answers that are not the full network's).
        limit: In the kind's unit.
        confidence: Probability, over the draw of the rows, that a policy that is chosen meets the limit.
        per_class: Whether the loss has to be within the limit for every class.

    Raises:
        InputError: If a number is out of range, or a cost is to be bounded for each class.
    """

    kind: str
    limit: float
    confidence: float = 0.95
    per_class: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.kind not in (*COSTS, *LOSSES):
            raise InputError(f"kind {self.kind!r}: there is none; choose {', '.join((*COSTS, *LOSSES))}")
        for name, value in ((self.kind, self.limit), ("confidence", self.confidence)):
            if not isinstance(value, int | float):
                raise InputError(f"`{name}` {value!r}: has to be a number")
        what = f"`{self.kind}` {self.limit:g}"
        if self.kind == "latency_ms":
            if not 0 < self.limit < math.inf:
                raise InputError(f"{what}: has to be a number of milliseconds above 0")
        elif self.kind == "budget":
            if not 0 < self.limit <= 1:
                raise InputError(f"{what}: has to be above 0 and at most 1, the full network's mean FLOPs")
        elif not 0 < self.limit < 1:
            raise InputError(f"{what}: has to be between 0 and 1, like 0.02 for two in a hundred")
        if not 0 < self.confidence < 1:
            raise InputError(f"`confidence` {self.confidence:g}: has to be between 0 and 1, like 0.95")
        if self.per_class and self.kind not in LOSSES:
            raise InputError("`per_class`: bounds a loss; give `max_accuracy_drop` or `max_disagreement` with it")

    def rows_needed(self, choosing_share: float = CHOOSING_SHARE) -> int:
        """Rows without a single loss from which the limit can be met at all, those that choose included; 0 if any."""
        if self.kind not in LOSSES:
            return 0
        return math.ceil(math.log(1 - self.confidence) / math.log(1 - self.limit) / (1 - choosing_share))


def constraint_of(
    limits: Mapping[str, float | None], confidence: float = 0.95, per_class: bool = False
) -> Constraint | None:
    """Read the limit that a policy has to keep, of which one is given at most.

    Args:
        limits: By their kinds; None where a limit is not given.
        confidence: See :class:`Constraint`.
        per_class: See there.

    Raises:
        InputError: If several are given, or the number is out of range.
    """
    given = {kind: limit for kind, limit in limits.items() if limit is not None}
    if len(given) > 1:
        raise InputError(f"{len(given)} of {', '.join(f'`{kind}`' for kind in given)} given; give one at most")
    return next((Constraint(kind, limit, confidence, per_class) for kind, limit in given.items()), None)


@dataclass(frozen=True, slots=True)
class Choice:
    """What :func:`choose` found.

    Attributes:
        policy: The policy that meets the constraint, or None.
        test: The test that it passed.
        tested: Indices of the rows that tested it, ascending.
        tried: All policies that there were to choose from.
    """

    policy: RoutingPolicy | None
    test: SequenceTest
    tested: NDArray[np.int64]
    tried: list[RoutingPolicy]


def choose(
    answers: AllAnswers,
    constraint: Constraint,
    classes: int,
    seed: int = 0,
    choosing_rows: NDArray[np.int64] | None = None,
) -> Choice:
    """Choose the policy: the cheapest that keeps a loss within its limit, or the best that keeps a cost within it.

    Args:
        answers: Of independent rows; see :func:`sharcs.calibration.calibrate.calibrate`.
        constraint: What has to be met.
        classes: Number of classes.
        seed: Draws the rows that choose the sequence.
        choosing_rows: Those rows' indices, ascending; None to draw a fifth.
    """
    chosen, tested = split_rows(len(answers), seed, choosing_rows)
    choosing = answers.take(chosen)
    paths = policy_paths(choosing)
    _, sequence = min((_sequence(choosing, path, constraint) for path in paths), key=lambda rated: rated[0])
    test = SequenceTest(choosing, answers.take(tested), constraint, classes)
    return Choice(test.last_passing(sequence), test, tested, [policy for path in paths for policy in path])


def split_rows(
    count: int, seed: int, choosing: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide rows into those that choose, a fifth unless given, and those that test: indices, ascending."""
    if choosing is None:
        order = np.random.default_rng(seed).permutation(count)
        choosing = np.sort(order[: max(1, round(CHOOSING_SHARE * count))])
    return choosing, np.setdiff1d(np.arange(count), choosing)


def classes_bounded(answers: AllAnswers, constraint: Constraint) -> NDArray[np.int64]:
    """Tell the class of each row, ``[rows]``: the true one for accuracy, the full network's for disagreement."""
    labels = answers.labels if constraint.kind == "max_accuracy_drop" else None
    return answers.full_predictions if labels is None else labels


class SequenceTest:
    """Tests policies on rows that had no part in choosing them.

    Args:
        choosing: The rows that chose them.
        rows: The rows to test on.
        constraint: What has to be met.
        classes: Number of classes.
    """

    def __init__(self, choosing: AllAnswers, rows: AllAnswers, constraint: Constraint, classes: int) -> None:
        self.choosing, self.rows, self.constraint = choosing, rows, constraint
        self.choosing_weights, self.weights = choosing.weights, rows.weights
        self.groups: list[NDArray[np.bool_]] = [np.ones(len(rows), dtype=bool)]
        if constraint.per_class:
            class_of = classes_bounded(rows, constraint)
            self.groups = [class_of == index for index in range(classes)]

    def last_passing(self, path: list[RoutingPolicy]) -> RoutingPolicy | None:
        """Test one policy after the other, up to the first that fails."""
        passed = None
        for piece in self.rows.in_pieces(path):
            routed, before = self.rows.route(piece), self.choosing.route(piece)
            for index, policy in enumerate(piece):
                if not self._passes(routed, before, index):
                    return passed
                passed = policy
        return passed

    def evidence(self, policy: RoutingPolicy) -> tuple[float, float]:
        """Observed value and upper bound, of the class whose bound is the highest."""
        routed, before = self.rows.route([policy]), self.choosing.route([policy])
        confidence = self.constraint.confidence
        if self.constraint.kind in COSTS:
            upper = mean_upper(routed.spent[0], self.weights, self._bet(before, 0), confidence)
            return float(routed.spent.sum() / self.weights.sum()), upper
        found = []
        for lost, gained, rows in self._counts(routed, before, 0):
            if gained is None:
                found.append((rate_upper(lost, rows, confidence), lost / max(rows, 1)))
            else:
                found.append((difference_upper(lost, gained, rows, confidence), (lost - gained) / max(rows, 1)))
        bound, observed = max(found)
        return observed, bound

    def _passes(self, routed: Routed, before: Routed, index: int) -> bool:
        limit, confidence = self.constraint.limit, self.constraint.confidence
        if self.constraint.kind in COSTS:
            bet = self._bet(before, index)
            return mean_is_below(routed.spent[index], self.weights, bet, confidence, limit)
        return all(
            (rate_p(lost, rows, limit) if gained is None else difference_p(lost, gained, rows, limit, confidence))
            <= 1 - confidence
            for lost, gained, rows in self._counts(routed, before, index)
        )

    def _counts(self, routed: Routed, before: Routed, index: int) -> Iterator[tuple[int, int | None, int]]:
        """For each class: losses, gains (None if they are not to be set against losses) and rows."""
        of_labels = self.constraint.kind == "max_accuracy_drop"
        losses = (routed.lost if of_labels else routed.disagrees)[index]
        # The rows that choose decide, so that the test is fixed for those that it is made on.
        paired = of_labels and bool(before.gained[index].any())
        for group in self.groups:
            gained = int(routed.gained[index][group].sum()) if paired else None
            yield int(losses[group].sum()), gained, int(group.sum())

    def _bet(self, before: Routed, index: int) -> float:
        return bet_size(
            before.spent[index],
            self.choosing_weights,
            self.constraint.limit,
            self.rows.most_spent,
            len(self.rows),
            self.constraint.confidence,
        )


def _sequence(
    choosing: AllAnswers, path: list[RoutingPolicy], constraint: Constraint
) -> tuple[float, list[RoutingPolicy]]:
    """Make of a path from full to narrow the sequence to test, from the safest on, and rate it.

    The rating is what the sequence gives near the limit; less is better. What spends more than the full network is
    left out: a policy that escalates nearly every input.
    """
    routed = choosing.route(path)
    spent = routed.spent.mean(axis=1) / choosing.weights.mean()  # [policies], the first is the full network
    # Losses without the gains: hardly a row shows any, and the sum would be mostly chance.
    lost = (routed.lost if constraint.kind == "max_accuracy_drop" else routed.disagrees).mean(axis=1)
    cheaper = spent < spent[0]
    kept = [policy for policy, keep in zip(path, cheaper, strict=True) if keep]
    if constraint.kind in COSTS:
        if choosing.labels is not None:
            lost = 1 - routed.label_score.mean(axis=1)
        within = [lost[cheaper & (spent <= level * constraint.limit)] for level in COST_LEVELS]
        return float(np.mean([some.min(initial=1.0) for some in within])), [*kept[::-1], path[0]]
    within = [spent[cheaper & (lost <= level * constraint.limit)] for level in LOSS_LEVELS]
    # The full network has no loss and needs no test.
    return float(np.mean([some.min(initial=spent[0]) for some in within])), kept
