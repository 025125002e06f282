"""The one decision of a cascade: which sub-network an input runs next, for any number of steps.

Whoever runs sub-networks only feeds it: a forward pass, the scheduler of an engine, a record of all answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sharcs_runtime.policy import ROUTER, RoutingPolicy
from sharcs_runtime.scores import blended, confidence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sharcs_runtime.policy import Floats
    from sharcs_runtime.ways import Costs, Flags, Numbers


class Cascade:
    """Inputs on their way through the sub-networks of a policy.

    Args:
        policy: Where inputs start, and when an answer stands: one policy, or one for each input.
        names: Of the sub-networks, the cheapest first, the full one last.
        count: How many inputs there are.
        problem_type: As in Hugging Face configurations.

    Attributes:
        start: Index of the sub-network that each input ran first, int64 ``[inputs]``; −1 before it began.
        answered_by: Index of the last one that answered it, int64 ``[inputs]``; −1 before any did.
        scores: How sure its answer at hand is, float32 ``[inputs]``.
        logits: The answers at hand, float32 ``[inputs, labels]``, of inputs that were put with logits; else None.
    """

    def __init__(
        self,
        policy: RoutingPolicy | Sequence[RoutingPolicy],
        names: Sequence[str],
        count: int,
        problem_type: str | None = None,
    ) -> None:
        given = [policy] * min(count, 1) if isinstance(policy, RoutingPolicy) else policy
        position = {each: number for number, each in enumerate(dict.fromkeys(given))}
        self._policies = list(position)
        self._policy_of = np.zeros(count, np.int64)
        if len(position) > 1:
            self._policy_of[:] = [position[each] for each in given]
        self.names = list(names)
        self.problem_type = problem_type
        self.start = np.full(count, -1, np.int64)
        self.answered_by = np.full(count, -1, np.int64)
        self.scores = np.zeros(count, np.float32)
        self.logits: Floats | None = None
        self._next = np.full(count, -1, np.int64)

    def groups(self, rows: Numbers) -> Iterator[tuple[RoutingPolicy, Numbers | slice]]:
        """Split inputs by their policy: each policy, and where its inputs stand among ``rows``."""
        if len(self._policies) == 1:
            yield self._policies[0], slice(None)
            return
        number_of = self._policy_of[rows]
        for number in np.unique(number_of):
            yield self._policies[number], np.flatnonzero(number_of == number)

    def begin_where_fixed(self) -> None:
        """Begin with all inputs that their policies have start at one sub-network; the router says it of others."""
        everything = np.arange(len(self.start))
        for policy, at in self.groups(everything):
            if policy.start != ROUTER:
                self.begin(everything[at], self.names.index(policy.start))

    def begin(self, rows: Numbers, index: Numbers | int) -> None:
        """Note what inputs run first: the same for all, or one each."""
        self.start[rows] = index
        self._next[rows] = index

    def pending(self) -> dict[int, Numbers]:
        """List the inputs that have to run, by the sub-network's index, the cheapest first."""
        waiting = ((index, np.flatnonzero(self._next == index)) for index in range(len(self.names)))
        return {index: rows for index, rows in waiting if len(rows)}

    def put(self, index: int, rows: Numbers, logits: Floats | None = None, scores: Floats | None = None) -> Flags:
        """Take the answers of a sub-network.

        Args:
            index: Of the sub-network.
            rows: The inputs that it answered.
            logits: Its answers, ``[rows, labels]``: they are blended with those at hand as the policy says.
            scores: How sure the answers at hand now are, ``[rows]``, where somebody else keeps them.

        Returns:
            Which of the rows escalate, bool ``[rows]``: to :meth:`next_of`.
        """
        below = np.zeros(len(rows), np.bool_)
        had_one = self.answered_by[rows] >= 0
        self.answered_by[rows] = index
        self._next[rows] = -1
        for policy, at in self.groups(rows):
            mine = rows[at]
            kept = None if logits is None else self._keep(mine, logits[at], policy.blend, had_one[at])
            if scores is None:
                assert kept is not None
                sure = confidence(kept, self.problem_type, policy.signal)
            else:
                sure = np.asarray(scores, np.float32)[at]
            self.scores[mine] = sure
            step = policy.step_after(index, self.names)
            if step is not None:
                unsure = sure < np.float32(step[0])
                self._next[mine[unsure]] = step[1]
                below[at] = unsure
        return below

    def settle(self, rows: Numbers, logits: Floats, answered_by: Numbers, start: Numbers) -> None:
        """Take answers that somebody else has decided on.

        Args:
            rows: The inputs.
            logits: ``[rows, labels]``.
            answered_by: Index of the sub-network that answered each, ``[rows]``.
            start: Of the one that ran first, ``[rows]``.
        """
        self.start[rows] = start
        self._keep(rows, logits, 0.0, np.zeros(len(rows), np.bool_))
        self.answered_by[rows] = answered_by

    def next_of(self, rows: Numbers) -> Numbers:
        """Name what inputs have to run next, ``[rows]``; −1 where an answer stands, or nothing has begun."""
        return self._next[rows]

    def _keep(self, rows: Numbers, logits: Floats, blend: float, had_one: Flags) -> Floats:
        """Blend answers with those at hand, and keep them."""
        if self.logits is None:
            self.logits = np.zeros((len(self.start), logits.shape[-1]), np.float32)
        if blend > 0 and had_one.any():
            mixed: Any = blended(logits[had_one], self.logits[rows[had_one]], blend, self.problem_type)
            logits = logits.copy()
            logits[had_one] = mixed
        self.logits[rows] = logits
        return logits


class Routing(NamedTuple):
    """What decides an input's way.

    Attributes:
        policy: The routing policy.
        problem_type: As in Hugging Face configurations.
        names: Of the sub-networks, the cheapest first, the full one last.
        front: How many of them answer before the encoder runs; they come first.
        costs: What each of them costs; None where nobody has counted.
    """

    policy: RoutingPolicy
    problem_type: str | None
    names: list[str]
    front: int = 0
    costs: Costs | None = None

    def cascade(self, count: int, policies: Sequence[RoutingPolicy] | None = None) -> Cascade:
        """Begin to decide for some inputs, by the policy or by one for each."""
        cascade = Cascade(self.policy if policies is None else policies, self.names, count, self.problem_type)
        cascade.begin_where_fixed()
        return cascade
