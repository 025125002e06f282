"""What a policy would have answered and spent, row by row, from one pass over all widths; which policies to try."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sharcs.config import RoutingPolicy
from sharcs.cost import relative_cost
from sharcs.curve import curve_weights
from sharcs.errors import InputError
from sharcs.evaluation import Costs, WidthOutputs
from sharcs.router import choose_width
from sharcs.tasks import require_one_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from sharcs.modeling import SharcsForSequenceClassification

__all__ = ["Applied", "Times", "Trial", "forcing_weight", "policy_paths"]

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
class Applied:
    """Policies on the rows of a trial, ``[policies, rows]`` each.

    Attributes:
        last: Index of the width that answers.
        disagrees: Whether the answer is another than the full network's.
        lost: Whether the full network is right and the answer wrong; all False without labels.
        gained: The other way round.
        flops: What was spent.
        spent: The same, or milliseconds where times were measured.
    """

    last: NDArray[np.int64]
    disagrees: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    gained: NDArray[np.bool_]
    flops: NDArray[np.float64]
    spent: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trial:
    """Rows on which policies are tried.

    Attributes:
        outputs: What every width says, from :func:`sharcs.evaluation.run_all_widths`.
        costs: FLOPs of every row.
        labels: True classes, int64 ``[rows]``, or None.
        largest_cost: FLOPs that no input can exceed under any policy.
        forcing_weight: A cost weight that sends every input to the narrowest width; its negative sends all to full.
        blend: With which the outputs were taken, and which the policies have.
        times: In place of FLOPs, if what an input takes is to be counted in milliseconds.
    """

    outputs: WidthOutputs
    costs: Costs
    labels: Tensor | None
    largest_cost: float
    forcing_weight: float
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
        weight = forcing_weight(model, max_length)
        longest = Costs.of(model, torch.tensor([max_length]))
        largest = _largest(longest.widths[0].numpy(), float(longest.continuation[0]))
        costs = Costs.of(model, outputs.lengths)
        return cls(outputs, costs, labels, largest, weight, blend, times)

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
            costs=Costs(costs.widths[kept], costs.full[kept], costs.continuation[kept]),
            labels=None if self.labels is None else self.labels[kept],
        )

    def unblended(self) -> Trial:
        """Give inputs that go on the full network's own answer."""
        own = self.outputs.predictions[:, -1:].expand(self.outputs.escalated.shape)
        return replace(self, outputs=replace(self.outputs, escalated=own), blend=0.0)

    def apply(self, policies: Sequence[RoutingPolicy]) -> Applied:
        """Try policies; the same as :func:`sharcs.evaluation.route` with one after the other."""
        outputs, full = self.outputs, self.costs.widths.shape[1] - 1
        weights = {policy.cost_weight for policy in policies}
        relative = self.costs.relative
        choices = {weight: choose_width(outputs.router_logits, relative, RoutingPolicy(weight)) for weight in weights}
        first = torch.stack([choices[policy.cost_weight] for policy in policies])  # [policies, rows]
        # Below any confidence where a policy doesn't escalate.
        limits = [-1.0 if policy.escalation_threshold is None else policy.escalation_threshold for policy in policies]
        row = torch.arange(len(self))
        sure = outputs.scores[row, first]
        last = first.masked_fill((first < full) & (sure < torch.tensor(limits, dtype=sure.dtype)[:, None]), full)
        answers, full_answers = outputs.answers(first, last), outputs.predictions[:, -1]
        if self.labels is None:
            lost = gained = torch.zeros_like(answers, dtype=torch.bool)
        else:
            right, full_right = answers == self.labels, full_answers == self.labels
            lost, gained = full_right & ~right, right & ~full_right
        flops = self.costs.spent(first, last)
        spent = flops.numpy()
        if self.times is not None:
            spent = self.times.widths[first.numpy()] + np.where((first != last).numpy(), self.times.continuation, 0.0)
        return Applied(
            last.numpy(), (answers != full_answers).numpy(), lost.numpy(), gained.numpy(), flops.numpy(), spent
        )

    def in_pieces(self, policies: Sequence[RoutingPolicy]) -> Iterator[Sequence[RoutingPolicy]]:
        """Split policies so that trying a piece takes little memory."""
        size = max(1, ANSWERS_AT_ONCE // len(self))
        for start in range(0, len(policies), size):
            yield policies[start : start + size]

    def policy_of_one_width(self, full: bool) -> RoutingPolicy:
        """Send every input to the full network, or to the narrowest width."""
        return RoutingPolicy(-self.forcing_weight if full else self.forcing_weight)


def _largest(widths: NDArray[np.float64], continuation: float) -> float:
    """Full width at once, or after the dearest narrow one."""
    return float(max(widths[-1], widths[:-1].max() + continuation))


def forcing_weight(model: SharcsForSequenceClassification, max_length: int) -> float:
    """Find a cost weight that no router's score can outweigh, on inputs of up to ``max_length`` tokens.

    Scores differ by at most 1, so the weight times the least difference between two widths' costs has to be above 1.

    Raises:
        InputError: If the network has one width only.
    """
    if len(model.config.widths) < 2:
        raise InputError("the network has the width 1.0 only, so nothing can be chosen; train it with two widths")
    relative = relative_cost(model.cost_coefficients().cpu(), torch.arange(1, max_length + 1))
    return float(torch.ceil(1.5 / relative.diff(dim=1).min()))


def policy_paths(trial: Trial) -> list[list[RoutingPolicy]]:
    """Make the sequences of policies to choose from, out of rows that nothing is going to be tested on.

    Along a sequence every input gets cheaper or stays: the cost weight grows, or the threshold falls. All begin with
    the full network and end with the narrowest width: escalation alone (every input starts narrow); the cost weight
    alone; and combinations, where a cost weight chooses the first width and a threshold what goes on.
    """
    full, narrow = trial.policy_of_one_width(full=True), trial.policy_of_one_width(full=False)
    weights = curve_weights(trial.outputs.router_logits, trial.costs.relative)
    inner = np.linspace(0, len(weights) - 1, FIRST_CHOICES + 2).round().astype(int)[1:-1]
    first_choices = [narrow.cost_weight, *sorted({weights[index] for index in inner} | {0.0})]
    paths = [[full, *(RoutingPolicy(weight) for weight in weights), narrow]]
    for weight in first_choices:
        first = choose_width(trial.outputs.router_logits, trial.costs.relative, RoutingPolicy(weight))
        scores = trial.outputs.scores.gather(1, first.unsqueeze(1)).squeeze(1)
        scores = scores[first < trial.costs.widths.shape[1] - 1].double()
        if len(scores):
            # In the scores' own precision, so that a threshold means the same wherever it is compared.
            inside = torch.quantile(scores, torch.linspace(0, 1, THRESHOLDS).double()).float().tolist()
            thresholds = sorted({0.0, *inside, 1.0}, reverse=True)
            paths.append([full, *(RoutingPolicy(weight, limit, trial.blend) for limit in thresholds), narrow])
    return [paths[1], paths[0], *paths[2:]] if len(paths) > 1 else paths
