"""What a policy would have answered and spent, row by row, from one pass over all widths; which policies to try."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sharcs.config import RoutingPolicy
from sharcs.errors import InputError
from sharcs.evaluation.curve import curve_weights
from sharcs.evaluation.widths import Costs, WidthOutputs, check_steps
from sharcs.tasks.labels import require_one_label
from sharcs_runtime.policy import choose_width

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from sharcs.model.text import SharcsForSequenceClassification

__all__ = ["Applied", "Times", "Trial", "policy_paths"]

THRESHOLDS = 61  # of a path
ANSWERS_AT_ONCE = 4_000_000
FIRST_CHOICES = 9  # cost weights that are combined with escalation


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one input alone, measured on this machine.

    Attributes:
        widths: Of each width, float64 ``[widths]``.
        continuation: Of continuing at full width.
    """

    widths: NDArray[np.float64]
    continuation: float


@dataclass(frozen=True, slots=True)
class Trial:
    """Rows on which policies are tried.

    Attributes:
        outputs: What every width says, from :func:`sharcs.evaluation.widths.run_all_widths`.
        costs: FLOPs of every row.
        labels: True classes, int64 ``[rows]``, or None.
        largest_cost: FLOPs that no input can exceed under any policy.
        blend: With which the outputs were taken, and which the policies have.
        times: In place of FLOPs, if what an input takes is to be counted in milliseconds.
    """

    outputs: WidthOutputs
    costs: Costs
    labels: Tensor | None
    largest_cost: float
    blend: float = 0.0
    times: Times | None = None

    @classmethod
    def of(
        cls,
        model: SharcsForSequenceClassification,
        outputs: WidthOutputs,
        labels: Tensor | None,
        max_length: int,
        blend: float = 0.0,
        times: Times | None = None,
    ) -> Trial:
        """Count the costs of a model.

        Args:
            model: The routed network.
            outputs: What its widths say.
            labels: True classes, int64 ``[rows]``, or None.
            max_length: The most tokens of any input, of those to come too.
            blend: With which the outputs were taken.
            times: To count in milliseconds.

        Raises:
            InputError: If the network has one width only, or doesn't name one class for each input.
        """
        require_one_label(model.problem_type, "calibration")
        if len(model.config.widths) < 2:
            raise InputError("the network has the width 1.0 only, so nothing can be chosen; train it with two widths")
        longest = Costs.of(model, torch.tensor([max_length]))
        largest = _largest(longest.widths[0].numpy(), float(longest.continuation[0]))
        costs = Costs.of(model, outputs.lengths)
        return cls(outputs, costs, labels, largest, blend, times)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.outputs.lengths)

    @property
    def weights(self) -> NDArray[np.float64]:
        """What a mean cost is relative to: the full network's FLOPs, or one for milliseconds, ``[rows]``."""
        return np.ones(len(self)) if self.times is not None else self.costs.full.numpy()

    @property
    def largest(self) -> float:
        """What no input spends more than, in the unit that is counted."""
        return self.largest_cost if self.times is None else _largest(self.times.widths, self.times.continuation)

    @property
    def full_answers(self) -> NDArray[np.int64]:
        """The full network's answers, ``[rows]``."""
        answers: NDArray[np.int64] = self.outputs.predictions[:, -1].numpy()
        return answers

    def take(self, rows: NDArray[np.int64]) -> Trial:
        """Keep some of the rows."""
        kept = torch.from_numpy(rows)
        costs = self.costs
        return replace(
            self,
            outputs=self.outputs.take(kept),
            costs=Costs(costs.widths[kept], costs.full[kept], costs.continuation[kept], costs.names),
            labels=None if self.labels is None else self.labels[kept],
        )

    def unblended(self) -> Trial:
        """Give inputs that go on the full network's own answer."""
        own = self.outputs.predictions[:, -1:].expand(self.outputs.escalated.shape)
        return replace(self, outputs=replace(self.outputs, escalated=own), blend=0.0)

    def apply(self, policies: Sequence[RoutingPolicy]) -> Applied:
        """Try policies; the same as :func:`sharcs.evaluation.widths.route` with one after the other."""
        logits, relative = self.outputs.router_logits, self.costs.relative
        names = self.costs.names
        starts = list(dict.fromkeys((policy.start, policy.cost_weight) for policy in policies))
        choices = [choose_width(logits, relative, RoutingPolicy(weight, start=at), names) for at, weight in starts]
        sure = [self.outputs.scores.gather(1, first.unsqueeze(1)).squeeze(1) for first in choices]
        position = {start: index for index, start in enumerate(starts)}
        choice_of_policy = [position[policy.start, policy.cost_weight] for policy in policies]
        firsts = torch.stack(choices).numpy()[choice_of_policy]  # [policies, rows]
        scores = torch.stack(sure).numpy()[choice_of_policy]
        # Below any confidence where a policy doesn't escalate.
        limits = np.full((len(policies), len(names)), -1.0, scores.dtype)  # [policies, widths]
        for row, policy in enumerate(policies):
            check_steps(policy, names)
            for index in range(len(names) - 1):
                step = policy.step_after(index, names)
                limits[row, index] = -1.0 if step is None else step[0]
        goes_on = scores < np.take_along_axis(limits, firsts, axis=1)
        return Applied(self, firsts, goes_on)

    def in_pieces(self, policies: Sequence[RoutingPolicy]) -> Iterator[Sequence[RoutingPolicy]]:
        """Split policies so that trying a piece takes little memory."""
        size = max(1, ANSWERS_AT_ONCE // len(self))
        for start in range(0, len(policies), size):
            yield policies[start : start + size]

    def policy_of_one_width(self, full: bool) -> RoutingPolicy:
        """Send every input to the full network, or to the narrowest width."""
        return RoutingPolicy(start=self.costs.names[-1 if full else 0])


class Applied:
    """Policies on the rows of a trial. What is asked for is worked out then: a choice looks at little of it.

    Args:
        trial: The rows.
        first: Index of the width that each row runs first, int64 ``[policies, rows]``.
        goes_on: Whether it continues at full width, ``[policies, rows]``.
    """

    def __init__(self, trial: Trial, first: NDArray[np.int64], goes_on: NDArray[np.bool_]) -> None:
        """Note which way each row takes."""
        self._trial, self._shape = trial, first.shape
        narrow = range(trial.costs.widths.shape[1] - 1)
        self._ways = [((first == width) & ~goes_on, (first == width) & goes_on) for width in narrow]

    def _pick(self, staying: NDArray[Any], going_on: NDArray[Any]) -> NDArray[Any]:
        """Look each row's way up in what staying at each width leads to, and going on: ``[rows, widths]`` each."""
        found = np.empty(self._shape, staying.dtype)
        found[:] = staying[:, -1]
        for width, (stays, goes) in enumerate(self._ways):
            np.copyto(found, staying[:, width], where=stays)
            np.copyto(found, going_on[:, width], where=goes)
        return found

    @cached_property
    def last(self) -> NDArray[np.int64]:
        """Index of the width that answers, ``[policies, rows]``."""
        widths = np.arange(len(self._ways) + 1)[None]
        return self._pick(widths, np.full_like(widths, len(self._ways)))

    @cached_property
    def disagrees(self) -> NDArray[np.bool_]:
        """Whether the answer is another than the full network's, ``[policies, rows]``."""
        full_answers = self._trial.full_answers[:, None]
        return self._pick(*(answers != full_answers for answers in self._answers))

    @cached_property
    def lost(self) -> NDArray[np.bool_]:
        """Whether the full network is right and the answer wrong, ``[policies, rows]``; all False without labels."""
        return self._pick(*(full_right & ~right for right, full_right in self._right))

    @cached_property
    def gained(self) -> NDArray[np.bool_]:
        """The other way round."""
        return self._pick(*(right & ~full_right for right, full_right in self._right))

    @cached_property
    def flops(self) -> NDArray[np.float64]:
        """What was spent, ``[policies, rows]``."""
        costs = self._trial.costs
        return self._pick(costs.widths.numpy(), (costs.widths + costs.continuation.unsqueeze(1)).numpy())

    @cached_property
    def spent(self) -> NDArray[np.float64]:
        """The same, or milliseconds where times were measured."""
        times = self._trial.times
        if times is None:
            return self.flops
        return self._pick(times.widths[None], times.widths[None] + times.continuation)

    @property
    def _answers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        outputs = self._trial.outputs
        return outputs.predictions.numpy(), outputs.escalated.numpy()

    @property
    def _right(self) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Whether what each width answers is right, and what the full network does; of neither without labels."""
        labels = self._trial.labels
        if labels is None:
            nothing = np.zeros(tuple(self._trial.outputs.predictions.shape), dtype=bool)
            return [(nothing, nothing)] * 2
        truth = labels.numpy()[:, None]
        full_right = self._trial.full_answers[:, None] == truth
        return [(answers == truth, full_right) for answers in self._answers]


def _largest(widths: NDArray[np.float64], continuation: float) -> float:
    """Full width at once, or after the dearest narrow one."""
    return float(max(widths[-1], widths[:-1].max() + continuation))


def policy_paths(trial: Trial) -> list[list[RoutingPolicy]]:
    """Make the sequences of policies to choose from, out of rows that nothing is going to be tested on.

    Along a sequence every input gets cheaper or stays: the cost weight grows, or the threshold falls. All begin with
    the full network and end with the narrowest width: escalation alone (every input starts narrow); the cost weight
    alone; and combinations, where a cost weight chooses the first width and a threshold what goes on.
    """
    full, narrow = trial.policy_of_one_width(full=True), trial.policy_of_one_width(full=False)
    weights = curve_weights(trial.outputs.router_logits, trial.costs.relative)
    inner = np.linspace(0, len(weights) - 1, FIRST_CHOICES + 2).round().astype(int)[1:-1]
    first_choices = [
        narrow,
        *(RoutingPolicy(weight) for weight in sorted({weights[index] for index in inner} | {0.0})),
    ]
    paths = [[full, *(RoutingPolicy(weight) for weight in weights), narrow]]
    for choice in first_choices:
        first = choose_width(trial.outputs.router_logits, trial.costs.relative, choice, trial.costs.names)
        scores = trial.outputs.scores.gather(1, first.unsqueeze(1)).squeeze(1)
        scores = scores[first < trial.costs.widths.shape[1] - 1].double()
        if len(scores):
            # In the scores' own precision, so that a threshold means the same wherever it is compared.
            inside = torch.quantile(scores, torch.linspace(0, 1, THRESHOLDS).double()).float().tolist()
            thresholds = sorted({0.0, *inside, 1.0}, reverse=True)
            paths.append(
                [full, *(replace(choice, escalation_threshold=t, blend=trial.blend) for t in thresholds), narrow]
            )
    return [paths[1], paths[0], *paths[2:]] if len(paths) > 1 else paths
