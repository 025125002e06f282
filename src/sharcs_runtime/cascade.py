"""The one decision of a cascade: which sub-network an input runs next, for any number of steps.

Whoever runs sub-networks only feeds it: a forward pass, the scheduler of an engine, a record of all answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sharcs_runtime.scores import blended, confidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharcs_runtime.policy import Floats, RoutingPolicy

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Cascade:
    """Inputs on their way through the sub-networks of a policy.

    Args:
        policy: Where inputs start, and when an answer stands.
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
        self, policy: RoutingPolicy, names: Sequence[str], count: int, problem_type: str | None = None
    ) -> None:
        self.policy = policy
        self.names = list(names)
        self.problem_type = problem_type
        self.start = np.full(count, -1, np.int64)
        self.answered_by = np.full(count, -1, np.int64)
        self.scores = np.zeros(count, np.float32)
        self.logits: Floats | None = None
        self._next = np.full(count, -1, np.int64)

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
            Which of the rows escalate, bool ``[rows]``: to :meth:`next_after`.
        """
        if logits is not None:
            logits = self._keep(rows, logits)
        if scores is None:
            assert logits is not None
            scores = confidence(logits, self.problem_type, self.policy.signal)
        self.scores[rows] = scores
        self.answered_by[rows] = index
        self._next[rows] = -1
        step = self.policy.step_after(index, self.names)
        if step is None:
            return np.zeros(len(rows), np.bool_)
        below: Flags = np.asarray(scores, np.float32) < np.float32(step[0])
        self._next[rows[below]] = step[1]
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
        self._keep(rows, logits)
        self.answered_by[rows] = answered_by

    def next_after(self, index: int) -> int:
        """Name the sub-network that unsure answers of another one escalate to; the full one where none do."""
        step = self.policy.step_after(index, self.names)
        return len(self.names) - 1 if step is None else step[1]

    def _keep(self, rows: Numbers, logits: Floats) -> Floats:
        """Blend answers with those at hand, and keep them."""
        if self.logits is None:
            self.logits = np.zeros((len(self.start), logits.shape[-1]), np.float32)
        had_one = self.answered_by[rows] >= 0
        if self.policy.blend > 0 and had_one.any():
            mixed: Any = blended(logits[had_one], self.logits[rows[had_one]], self.policy.blend, self.problem_type)
            logits = logits.copy()
            logits[had_one] = mixed
        self.logits[rows] = logits
        return logits
