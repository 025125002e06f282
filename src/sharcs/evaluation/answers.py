"""What every sub-network says about every input, and what policies make of it: NumPy alone, no model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharcs.errors import InputError
from sharcs.evaluation.labels import checked_classes
from sharcs.evaluation.routing import ways_taken
from sharcs_runtime.policy import flops
from sharcs_runtime.ways import Columns, Doubles, Flags, Numbers, Singles, Way, ways_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sharcs_runtime.policy import RoutingPolicy

ANSWERS_AT_ONCE = 4_000_000
OF_INPUTS = ("way_predictions", "router_logits", "lengths", "labels", "way_label_scores")


@dataclass(frozen=True, slots=True)
class AllAnswers:
    """What every sub-network says about every input, in input order, alone and where inputs escalate to it.

    Columns that are ways stand in the order of :func:`sharcs_runtime.ways.ways_of`: each sub-network alone, then
    two of them, and so on. With two it is narrow, full, narrow and then full.

    Attributes:
        names: Of the sub-networks, the cheapest first, the full one last.
        way_predictions: Class that each way leads to, int64 ``[inputs, ways]``; of several labels, the number of
            their set.
        way_scores: How sure that answer is of itself, by the name of the signal, float32 ``[inputs, ways]`` each.
        router_logits: float32 ``[inputs, networks]``; −∞ of what answers before the encoder runs.
        lengths: Real tokens, int64 ``[inputs]``.
        cost_coefficients: c₀, c₁ and c₂ of the FLOPs c₀ + c₁·T + c₂·T² of each way, and last of the plain full
            network: float64 ``[ways + 1, 3]``.
        max_length: The most tokens of any input, of those to come too.
        blend: With which later answers were blended; a policy's own makes no difference.
        label_sets: The sets of labels by number, bool ``[sets, labels]``; None where there is one label.
        labels: True classes, int64 ``[inputs]``, or the numbers of the true sets; or None.
        way_label_scores: Probability that the last sub-network of each way gives to the true class, 1 more or less
            where blending makes it right or wrong: float32 ``[inputs, ways]``; None without labels or with several.
        way_milliseconds: Of one input alone on each way, float64 ``[ways]``, if what an input takes is to be counted
            in milliseconds.
        numbers: What the networks computed in: ``float32``, ``int8``, ...
        runtime: What ran them: ``torch`` or ``onnxruntime``.
        classes: Number of classes, if it is known.
    """

    names: tuple[str, ...]
    way_predictions: Numbers
    way_scores: Mapping[str, Singles]
    router_logits: Singles
    lengths: Numbers
    cost_coefficients: Doubles
    max_length: int
    blend: float = 0.0
    label_sets: Flags | None = None
    labels: Numbers | None = None
    way_label_scores: Singles | None = None
    way_milliseconds: Doubles | None = None
    numbers: str = "float32"
    runtime: str = "torch"
    classes: int | None = None

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self.lengths)

    @property
    def front(self) -> int:
        """How many sub-networks answer before the encoder runs: the router has no score of them."""
        return int(np.isneginf(self.router_logits).any(axis=0).sum())

    @property
    def predictions(self) -> Numbers:
        """Class that each sub-network names alone, ``[inputs, networks]``."""
        return self.way_predictions[:, : len(self.names)]

    @property
    def full_predictions(self) -> Numbers:
        """Class that the full network names, ``[inputs]``."""
        return self.predictions[:, -1]

    @property
    def way_right(self) -> Flags:
        """Whether what each way leads to is right, ``[inputs, ways]``; False without labels."""
        if self.labels is None:
            return np.zeros(self.way_predictions.shape, np.bool_)
        return np.equal(self.way_predictions, self.labels[:, None])

    @property
    def full_right(self) -> Flags:
        """Whether the full network is right, ``[inputs]``; False without labels."""
        return self.way_right[:, len(self.names) - 1]

    @property
    def scores(self) -> Singles:
        """Its probability, ``[inputs, networks]``; of several labels, the least sure one's."""
        return self.way_scores["probability"][:, : len(self.names)]

    @property
    def label_scores(self) -> Singles | None:
        """Probability that each sub-network gives to the true class, ``[inputs, networks]``; None if not known."""
        return None if self.way_label_scores is None else self.way_label_scores[:, : len(self.names)]

    @property
    def way_costs(self) -> Doubles:
        """FLOPs of each way, ``[inputs, ways]``."""
        return self._flops(slice(-1))

    @property
    def costs(self) -> Doubles:
        """FLOPs of each sub-network alone, ``[inputs, networks]``."""
        return self._flops(slice(len(self.names)))

    @property
    def full_costs(self) -> Doubles:
        """FLOPs of the plain full network, ``[inputs]``."""
        return self._flops(slice(-1, None))[:, 0]

    def _flops(self, which: slice) -> Doubles:
        """Evaluate some of the polynomials, ``[inputs, polynomials]``."""
        return flops(self.cost_coefficients[which], self.lengths)  # type: ignore[no-any-return]

    @property
    def relative_costs(self) -> Doubles:
        """Each sub-network's cost over the full network's on the same input, ``[inputs, networks]``."""
        return self.costs / self.full_costs[:, None]

    @property
    def weights(self) -> Doubles:
        """What :attr:`Routed.spent` is relative to, ``[inputs]``: the full network's FLOPs, or 1 for milliseconds."""
        return self.full_costs if self.way_milliseconds is None else np.ones(len(self))

    @property
    def most_spent(self) -> float:
        """What no input spends more than under any policy, in the unit that is counted."""
        if self.way_milliseconds is not None:
            return float(self.way_milliseconds.max())
        return float(flops(self.cost_coefficients[:-1], np.array([self.max_length])).max())

    def take(self, rows: Numbers) -> AllAnswers:
        """Keep some of the inputs."""
        kept: dict[str, Any] = {name: getattr(self, name) for name in OF_INPUTS}
        kept = {name: None if values is None else values[rows] for name, values in kept.items()}
        scores = {signal: values[rows] for signal, values in self.way_scores.items()}
        return replace(self, way_scores=scores, **kept)

    def unblended(self) -> AllAnswers:
        """Give inputs that escalate the later sub-network's own answer."""
        last = [way[-1] for way in ways_of(len(self.names))]
        scores = {signal: values[:, last] for signal, values in self.way_scores.items()}
        of = {name: getattr(self, name) for name in ("way_predictions", "way_label_scores")}
        of = {name: None if values is None else values[:, last] for name, values in of.items()}
        return replace(self, way_scores=scores, blend=0.0, **of)

    def labelled(self, labels: ArrayLike) -> AllAnswers:
        """Add true labels; see :meth:`truth`. Sets of labels that no answer is like get numbers, too."""
        truth = self.truth(labels)
        if self.label_sets is None or not (truth < 0).any():
            return replace(self, labels=truth)
        unlike, numbers = np.unique(np.asarray(labels)[truth < 0].astype(np.bool_), axis=0, return_inverse=True)
        truth[truth < 0] = len(self.label_sets) + numbers.reshape(-1)
        return replace(self, labels=truth, label_sets=np.concatenate([self.label_sets, unlike]))

    def truth(self, labels: ArrayLike) -> Numbers:
        """Bring true labels into the form of the predictions.

        Args:
            labels: Classes ``[inputs]``; of several labels, zeros and ones ``[inputs, labels]``.

        Returns:
            int64 ``[inputs]``; of several labels, the number of each set, and −1 where no answer is like it.

        Raises:
            InputError: If they are of another shape or have other values.
        """
        if self.label_sets is None:
            return checked_classes(labels, len(self), self.classes)
        values = np.asarray(labels)
        count = self.label_sets.shape[1]
        if values.ndim != 2 or values.shape[1] != count or not np.isin(values, (0, 1)).all():
            raise InputError(
                f"labels: of shape {list(values.shape)}; each input needs {count} zeros and ones, one a label"
            )
        numbers = {known.tobytes(): number for number, known in enumerate(self.label_sets)}
        return np.array([numbers.get(row.tobytes(), -1) for row in values.astype(np.bool_)], np.int64)

    def route(self, policies: Sequence[RoutingPolicy]) -> Routed:
        """Apply policies, each to every input, as :class:`sharcs_runtime.cascade.Cascade` decides.

        Raises:
            InputError: If a policy names a sub-network that there is not, a signal or a way that was not recorded.
        """
        return Routed(
            self, ways_taken(policies, self.names, self.router_logits, self.relative_costs, self.way_scores)
        )

    def in_pieces(self, policies: Sequence[RoutingPolicy]) -> Iterator[Sequence[RoutingPolicy]]:
        """Split policies so that routing by a piece takes little memory."""
        size = max(1, ANSWERS_AT_ONCE // len(self))
        for start in range(0, len(policies), size):
            yield policies[start : start + size]


class Routed:
    """Inputs as policies route them.

    What is asked for is worked out then: a choice of policies looks at little of it. Each attribute is
    ``[policies, inputs]``, and ``[inputs]`` of one policy's, ``routed[index]``.

    Args:
        answers: Of the inputs.
        taken: The way that each takes, as its column, of the shape of the attributes.
    """

    def __init__(self, answers: AllAnswers, taken: Columns) -> None:
        self.answers = answers
        self._taken = taken

    def __getitem__(self, policy: int) -> Routed:
        """Take one policy's."""
        return Routed(self.answers, self._taken[policy])

    @cached_property
    def start(self) -> Numbers:
        """Index of the sub-network that each input runs first."""
        return np.array([way[0] for way in self._ways])[self._taken]

    @cached_property
    def answered_by(self) -> Numbers:
        """Index of the one that answers."""
        return np.array([way[-1] for way in self._ways])[self._taken]

    @cached_property
    def answer(self) -> Numbers:
        """The class that is answered; of several labels, the number of their set."""
        return self._look_up(self.answers.way_predictions)

    @cached_property
    def score(self) -> Singles:
        """Its probability; of several labels, the least sure one's."""
        return self._look_up(self.answers.way_scores["probability"])

    @cached_property
    def cost(self) -> Doubles:
        """FLOPs."""
        return self._look_up(self.answers.way_costs)

    @cached_property
    def spent(self) -> Doubles:
        """The same, or milliseconds where times were measured."""
        milliseconds = self.answers.way_milliseconds
        return self.cost if milliseconds is None else milliseconds[self._taken]

    @cached_property
    def disagrees(self) -> Flags:
        """Whether the answer is another than the full network's."""
        return self._look_up(self.answers.way_predictions != self.answers.full_predictions[:, None])

    @cached_property
    def right(self) -> Flags:
        """Whether the answer is the true one; False without labels."""
        return self._look_up(self.answers.way_right)

    @cached_property
    def label_score(self) -> Singles:
        """What the answer is worth, see ``way_label_scores``; where that is not known, whether it is right."""
        scores = self.answers.way_label_scores
        return self.right.astype(np.float32) if scores is None else self._look_up(scores)

    @cached_property
    def lost(self) -> Flags:
        """Whether the full network is right and the answer wrong; False without labels."""
        return self.answers.full_right & ~self.right

    @cached_property
    def gained(self) -> Flags:
        """The other way round."""
        return self.right & ~self.answers.full_right

    @property
    def _ways(self) -> tuple[Way, ...]:
        return ways_of(len(self.answers.names))

    @cached_property
    def _places(self) -> Numbers:
        """Where each input's way stands in a flat array of inputs and ways."""
        return np.arange(len(self.answers)) * len(self._ways) + self._taken

    def _look_up(self, values: NDArray[Any]) -> NDArray[Any]:
        """Look each input's way up in ``values``, ``[inputs, ways]``."""
        return values.ravel()[self._places]
