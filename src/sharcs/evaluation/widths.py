"""What every sub-network says about every input, and what each costs: the data behind curves and policies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from sharcs.config import RoutingPolicy
from sharcs.errors import InputError
from sharcs.evaluation.inputs import model_inputs
from sharcs.evaluation.label_sets import label_set, look_up, number_sets
from sharcs.model.cost import flops
from sharcs.tasks.losses import MULTI_LABEL, SINGLE_LABEL
from sharcs_runtime.policy import choose_width, unsure
from sharcs_runtime.scores import blended, confidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Sized

    from torch import Tensor

    from sharcs.model.base import RoutedModel

__all__ = ["Costs", "WidthOutputs", "check_steps", "route", "run_all_widths"]


@dataclass(frozen=True, slots=True)
class WidthOutputs:
    """What every width says about every input, in input order.

    Attributes:
        predictions: Predicted class, int64 ``[inputs, widths]``; of several labels, the number of their set.
        scores: Its probability, the answer's confidence, ``[inputs, widths]``; of several labels, the least sure
            one's.
        escalated: Class that an input is given that goes on to full width after each width, int64
            ``[inputs, widths]``; blended as the model's policy says. In the last column it is the full network's.
        router_logits: ``[inputs, widths]``.
        lengths: Real tokens, int64 ``[inputs]``.
        label_sets: The sets of labels by number, bool ``[sets, labels]``; None where there is one label.
    """

    predictions: Tensor
    scores: Tensor
    escalated: Tensor
    router_logits: Tensor
    lengths: Tensor
    label_sets: Tensor | None = None

    def answers(self, first: Tensor, last: Tensor) -> Tensor:
        """Look up the class of inputs that run ``first`` and then ``last``: ``[..., inputs]``, like both of them."""
        row = torch.arange(len(self.lengths))
        return torch.where(first == last, self.predictions[row, last], self.escalated[row, first])

    def take(self, rows: Tensor) -> WidthOutputs:
        """Keep some of the inputs."""
        of_inputs = {name: getattr(self, name)[rows] for name in self.__slots__ if name != "label_sets"}
        return replace(self, **of_inputs)

    def truth(self, labels: Tensor) -> Tensor:
        """Bring true labels into the form of the predictions: int64 ``[inputs]``."""
        return labels if self.label_sets is None else look_up(self.label_sets, labels)


@torch.inference_mode()
def run_all_widths(
    model: RoutedModel,
    rows: Sized,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    blend: float | None = None,
    on_logits: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> WidthOutputs:
    """Run every input at every width.

    Args:
        model: The routed network; it is put into evaluation mode.
        rows: Tokenised inputs, a map-style data set; only what the tokenizer makes is read.
        collate: Pads rows into a batch.
        batch_size: Inputs a batch; they are ordered by length, so that little is padded.
        on_batch: Called with the number of inputs after each batch, for a progress bar.
        blend: Weight of the narrow answer where an input goes on; by default the policy's.
        on_logits: Called after each batch, for what needs more than the answers: with the inputs' indices, int64
            ``[batch]``, the logits of every width, ``[widths, batch, labels]``, and those that an input is given
            which goes on to full width after each, of the same shape.

    Returns:
        Tensors on the CPU.

    Raises:
        InputError: If the model is a regression, or answers for tokens: that is not right or wrong as a whole.
    """
    policy, problem_type = model.config.routing_policy, model.problem_type
    if problem_type not in (SINGLE_LABEL, MULTI_LABEL):
        raise InputError(
            f"problem_type {problem_type}: its answers are not right or wrong as a whole; compare "
            "model(**batch, widths='all') by a measure of your own"
        )
    model.train(False)
    lengths = torch.tensor([model.token_count(row) for row in rows])  # type: ignore[attr-defined]
    order = lengths.argsort(descending=True, stable=True)
    loader: DataLoader[Any] = DataLoader(
        rows,  # type: ignore[arg-type]
        sampler=order.tolist(),
        batch_size=batch_size,
        collate_fn=lambda batch: collate([model_inputs(row) for row in batch]),
    )
    predictions, scores, escalated, router_logits, done = [], [], [], [], 0
    if blend is not None:
        policy = replace(policy, blend=blend)
    for batch in loader:
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        outputs = model(**inputs, widths="all")
        every = outputs.width_logits.float()
        mixed = torch.stack(
            [blended(every[-1], narrow, policy.blend, problem_type) for narrow in every[:-1]] + [every[-1]]
        )
        if problem_type == MULTI_LABEL:
            escalated.append(label_set(mixed).transpose(0, 1))  # [batch, widths, labels]
            predictions.append(label_set(every).transpose(0, 1))
            scores.append(confidence(every, problem_type).T)
        else:
            escalated.append(mixed.argmax(dim=-1).T)
            best = every.softmax(dim=-1).max(dim=-1)  # [widths, batch]
            predictions.append(best.indices.T)
            scores.append(best.values.T)
        router_logits.append(outputs.router_logits.float())
        if on_logits:
            on_logits(order[done : done + len(predictions[-1])], every, mixed)
        done += len(predictions[-1])
        if on_batch:
            on_batch(len(predictions[-1]))
    back = order.argsort()
    answers, label_sets = torch.stack([torch.cat(predictions), torch.cat(escalated)]).cpu(), None
    if problem_type == MULTI_LABEL:
        label_sets, answers = number_sets(answers)
    return WidthOutputs(
        predictions=answers[0, back],
        scores=torch.cat(scores).cpu()[back],
        escalated=answers[1, back],
        router_logits=torch.cat(router_logits).cpu()[back],
        lengths=lengths,
        label_sets=label_sets,
    )


@dataclass(frozen=True, slots=True)
class Costs:
    """FLOPs of every input.

    Attributes:
        widths: Of every width, float64 ``[inputs, widths]``.
        full: Of the plain full network, ``[inputs]``.
        continuation: Of continuing at full width, ``[inputs]``.
        names: Of the sub-networks, the full one last.
    """

    widths: Tensor
    full: Tensor
    continuation: Tensor
    names: tuple[str, ...] = ("width-25", "full")

    @classmethod
    def of(cls, model: RoutedModel, lengths: Tensor) -> Costs:
        """Count them for inputs of these lengths, int64 ``[inputs]``."""
        every = flops(model.cost_coefficients().cpu(), lengths)
        going_on = flops(model.continuation_coefficients().cpu().unsqueeze(0), lengths)
        return cls(every[:, :-1], every[:, -1], going_on[:, 0], tuple(model.config.names))

    @property
    def relative(self) -> Tensor:
        """Each width's cost over the full network's on the same input, ``[inputs, widths]``."""
        return self.widths / self.full.unsqueeze(1)

    def spent(self, first: Tensor, last: Tensor) -> Tensor:
        """Cost of running ``first`` and, where ``last`` differs, continuing: ``[..., inputs]``, like both of them."""
        cost = self.widths[torch.arange(len(self.widths)), first]
        return cost + torch.where(first == last, 0.0, self.continuation)


def route(outputs: WidthOutputs, costs: Costs, policy: RoutingPolicy) -> tuple[Tensor, Tensor]:
    """Apply a policy to what every width said.

    Returns:
        Indices of the width that each input runs first, and of the one that answers: int64 ``[inputs]`` each.
    """
    check_steps(policy, costs.names)
    first = choose_width(outputs.router_logits, costs.relative, policy, costs.names)
    scores = outputs.scores.gather(1, first.unsqueeze(1)).squeeze(1)
    return first, first.masked_fill(unsure(scores, first, policy, costs.names), len(costs.names) - 1)


def check_steps(policy: RoutingPolicy, names: Sequence[str]) -> None:
    """Refuse a policy of more than two steps: only what a sub-network and then the full one answer is recorded.

    Raises:
        InputError: If it is one.
    """
    for index in range(len(names)):
        step = policy.step_after(index, names)
        if step is not None and step[1] != len(names) - 1:
            raise InputError("policy escalation_threshold: has several steps, and one is recorded; give a number")
