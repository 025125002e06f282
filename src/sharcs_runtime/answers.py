"""What an engine answers: classes, how probable each is, who answered, and at what cost."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sharcs_runtime.errors import InputError
from sharcs_runtime.policy import flops
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION, sigmoid, softmax
from sharcs_runtime.ways import Costs, Doubles, way_taken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharcs_runtime.cascade import Cascade
    from sharcs_runtime.policy import Floats
    from sharcs_runtime.pool import Flags, Numbers

INTEGER, BOOLEAN = "integer", "boolean"  # types of labels
ARRAYS = ("probabilities", "answered_by", "start", "tokens", "flops", "full_flops")


class Prediction(NamedTuple):
    """The answer to one input.

    Attributes:
        class_index: Index into the configuration's ``id2label``.
        score: The class's probability, from 0 to 1.
        width_index: Index into the configuration's ``widths`` of the sub-network that answered.
        first_width_index: The same of the sub-network that ran first; another one where the input escalated.
    """

    class_index: int
    score: float
    width_index: int
    first_width_index: int


class Answer(NamedTuple):
    """The answer to one input, with all that is known of it.

    Attributes:
        classes: The most probable classes, the first one is the answer.
        scores: Their probabilities.
        width_index: As of a :class:`Prediction`.
        first_width_index: As of a :class:`Prediction`.
        tokens: Tokens that were read, special ones included.
        flops: FLOPs of all sub-networks that ran; not a number where the engine knows of none.
        cost: These over the plain full network's.
    """

    classes: tuple[int, ...]
    scores: tuple[float, ...]
    width_index: int
    first_width_index: int
    tokens: int
    flops: float
    cost: float


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to some inputs, as arrays.

    Attributes:
        probabilities: Of each class, float32 ``[inputs, classes]``. Of several labels, each one's own; of a
            regression, the numbers themselves.
        answered_by: Index of the sub-network that answered, ``[inputs]``.
        start: Of the one that ran first, ``[inputs]``.
        tokens: Tokens that were read, special ones included, ``[inputs]``.
        flops: Of all that ran, float64 ``[inputs]``; not numbers where the engine knows of none.
        full_flops: Of the plain full network, ``[inputs]``.
        problem_type: As in Hugging Face configurations.
    """

    probabilities: Floats
    answered_by: Numbers
    start: Numbers
    tokens: Numbers
    flops: Doubles
    full_flops: Doubles
    problem_type: str | None = None

    @classmethod
    def of(cls, cascade: Cascade, rows: Numbers, lengths: Numbers, costs: Costs | None, front: int) -> Answers:
        """Collect the answers to some rows of a cascade.

        Args:
            cascade: What has decided on them.
            rows: The rows.
            lengths: Tokens of each row of the cascade.
            costs: What each sub-network costs.
            front: How many sub-networks answer before the encoder runs.
        """
        assert cascade.logits is not None
        tokens = lengths[rows]
        spent = full = np.full(len(rows), np.nan)
        if costs is not None:
            spent, full = _flops(cascade, rows, tokens, costs, front), flops(costs.alone[-1:], tokens)[:, 0]
        logits, problem_type = cascade.logits[rows], cascade.problem_type
        if problem_type != REGRESSION:
            logits = sigmoid(logits) if problem_type == MULTI_LABEL else softmax(logits)
        return cls(logits, cascade.answered_by[rows], cascade.start[rows], tokens, spent, full, problem_type)

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self.tokens)

    def take(self, rows: Numbers) -> Answers:
        """Select inputs, in any order, also several times."""
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in ARRAYS}
        return replace(self, **arrays)

    @property
    def cost(self) -> Doubles:
        """FLOPs over the plain full network's, ``[inputs]``."""
        return self.flops / self.full_flops

    @property
    def scores(self) -> Floats:
        """Probability of the predicted class, of several labels the least sure one's: ``[inputs]``."""
        of_labels = self.probabilities
        if self.problem_type == MULTI_LABEL:
            return np.maximum(of_labels, 1 - of_labels).min(axis=-1)  # type: ignore[no-any-return]
        return of_labels.max(axis=-1)  # type: ignore[no-any-return]

    @property
    def said(self) -> Numbers | Flags | Floats:
        """The class, ``[inputs]``; of several labels which, ``[inputs, labels]``; of a regression the numbers."""
        if self.problem_type == MULTI_LABEL:
            return self.probabilities > 0.5
        return self.probabilities if self.problem_type == REGRESSION else self.probabilities.argmax(axis=-1)

    def predictions(self) -> list[Prediction]:
        """List the predicted classes.

        Raises:
            InputError: If an answer is no class.
        """
        if self.problem_type in (MULTI_LABEL, REGRESSION):
            raise InputError(
                f"predict: names a class a text, and the network has none (problem_type {self.problem_type}); take "
                "`said` of what answer_windows gives"
            )
        classes = self.said.tolist()
        scores = self.scores.astype(np.float64).tolist()
        rows = zip(classes, scores, self.answered_by.tolist(), self.start.tolist(), strict=True)
        return [Prediction(*row) for row in rows]

    def top(self, top_k: int | None = None) -> tuple[Numbers, Floats]:
        """Rank the classes; of equally probable ones the first is ahead.

        Args:
            top_k: How many of each input; all by default.

        Returns:
            The most probable classes, and their probabilities, ``[inputs, classes]``.
        """
        ranked = np.argsort(-self.probabilities, axis=-1, kind="stable")[:, :top_k]
        return ranked, np.take_along_axis(self.probabilities, ranked, axis=-1)

    def ranked(self, top_k: int | None = None) -> list[Answer]:
        """List the answers, with the ``top_k`` most probable classes of each; all by default."""
        classes, scores = self.top(top_k)
        rows = zip(
            map(tuple, classes.tolist()),
            map(tuple, scores.astype(np.float64).tolist()),
            *(of.tolist() for of in (self.answered_by, self.start, self.tokens, self.flops, self.cost)),
            strict=True,
        )
        return [Answer(*row) for row in rows]


def _flops(cascade: Cascade, rows: Numbers, tokens: Numbers, costs: Costs, front: int) -> Doubles:
    """Sum what ran for each row, by the way that its policy took."""
    spent = np.empty(len(rows))
    for policy, at in cascade.groups(rows):
        start, last = cascade.start[rows[at]], cascade.answered_by[rows[at]]
        of_group, found = tokens[at], np.empty(len(start))
        for first, end in set(zip(start.tolist(), last.tolist(), strict=True)):
            way = way_taken(policy, tuple(cascade.names), first, end)
            cost = costs.along([way], front)
            same = (start == first) & (last == end)
            found[same] = flops(cost, of_group[same])[:, 0]
        spent[at] = found
    return spent


def typed_labels(names: Sequence[str], label_type: str | None) -> list[Any]:
    """Turn the names of classes into values of the type that the training's labels had.

    Args:
        names: By index.
        label_type: ``integer``, ``boolean``, or None for text, which they stay, too, where others than such are
            among them.
    """
    digits = "0|-?[1-9][0-9]{0,18}"
    if label_type == INTEGER and all(re.fullmatch(digits, name) and has_room(int(name)) for name in names):
        return [int(name) for name in names]
    if label_type == BOOLEAN and set(names) <= {"True", "False"}:
        return [name == "True" for name in names]
    return list(names)


def has_room(number: float) -> bool:
    """Tell whether 64 bits have room for a whole number, as columns of tables have."""
    return -(2**63) <= number < 2**63
