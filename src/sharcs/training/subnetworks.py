"""The second phase of the recipe ``sharcs+``: narrow networks and router learn from the full network, which is fixed.

They come after fine-tuning, so that the full network is exactly what it would be without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from sharcs.config import BLEND, RoutingPolicy, SharcsConfig
from sharcs.tasks.losses import REGRESSION, router_loss
from sharcs.training.hardness import narrowest_sure
from sharcs.training.importance import measure_importance
from sharcs.training.schedule import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from sharcs.model.base import RoutedModel
    from sharcs.model.tail import RoutedTail
    from sharcs.tasks.losses import BaseTask

__all__ = ["SubnetworkPhase", "phases_of", "set_policy"]

# Of the learning rate: what starts far from its end learns faster.
SUBNETWORK_RATE, ROUTER_RATE = 2, 10
# Start narrow unless the router finds it hopeless, and let an unsure answer continue.
PLUS_POLICY = {"cost_weight": 1.0, "escalation_threshold": 0.9, "blend": BLEND}


def set_policy(config: SharcsConfig) -> None:
    """Give a model that has the default policy the one of ``sharcs+``.

    A regression keeps the default, the router's argmax: nothing would correct a start that is too narrow.
    """
    if config.routing_policy == RoutingPolicy() and config.problem_type != REGRESSION:
        config.policy = dict(PLUS_POLICY)


def narrow_parameters(tail: RoutedTail) -> list[nn.Parameter]:
    """List the parameters of the narrow sub-networks."""
    return [parameter for subnetwork in tail.narrow for parameter in subnetwork.parameters()]


def phases_of(tail: RoutedTail, start: float, epochs: float) -> dict[nn.Parameter, Phase]:
    """Say when and how fast sub-networks and router learn: from the epoch ``start`` on, for ``epochs``."""
    of_both = {SUBNETWORK_RATE: narrow_parameters(tail), ROUTER_RATE: tail.router.parameters()}
    return {p: Phase(start, epochs, rate) for rate, parameters in of_both.items() for p in parameters}


class SubnetworkPhase:
    """Freezes the full network and says what a step minimises.

    Args:
        model: The routed network; its full width is fine-tuned.
        task: What it was fine-tuned for.
        teacher: The full network's answers on every training row, ``[rows, labels]`` or ``[rows, longest, labels]``
            without the padding of batches, if the phase is taken up again.
    """

    def __init__(self, model: RoutedModel, task: BaseTask, teacher: Tensor | None = None) -> None:
        """Freeze."""
        self.model = model
        self.task = task
        self.teacher = teacher
        learning = {*narrow_parameters(model.tail), *model.tail.router.parameters()}
        self._frozen = [p for p in model.parameters() if p.requires_grad and p not in learning]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
            parameter.grad = None

    def start(self, ranking: Iterable[dict[str, Tensor]] | None, batches: Iterable[tuple[list[int], Any]]) -> None:
        """Cut the narrow networks out of the full one, and ask it about every training row.

        Args:
            ranking: Training batches with labels, on which importance is measured; None keeps what comes first.
            batches: All rows' numbers and batches.
        """
        tail = self.model.tail
        importance = None if ranking is None else measure_importance(self.model, ranking)
        for subnetwork in tail.narrow:
            subnetwork.fill(list(tail.layers), None if importance is None else importance.orders())  # type: ignore[operator]
        numbers: list[int] = []
        answers: list[Tensor] = []
        was_training = self.model.training
        self.model.train(False)
        with torch.no_grad():
            for rows, batch in batches:
                numbers += rows
                answer = self.model.answer_of(self.model(**batch, width=1.0)).float().cpu()
                answers += self.task.kept(answer, batch)
        self.model.train(was_training)
        self.teacher = pad_sequence(answers, batch_first=True)[torch.tensor(numbers).argsort()]

    def losses(self, model: nn.Module, inputs: dict[str, Any], sample_ids: Tensor) -> tuple[Any, Tensor, Tensor]:
        """Compute a step's outputs, the narrow networks' loss and the router's.

        The router learns which is the narrowest width that is sure of the truth, by its confidence in this pass.
        """
        assert self.teacher is not None
        # What is fixed is also free of dropout, so that everybody sees what will be there later.
        self.model.train(False)
        for subnetwork in self.model.tail.narrow:
            subnetwork.train(True)
        outputs, labels = model(**inputs, all_widths=True, narrow_only=True), self.task.labels_of(inputs)
        narrow = outputs.width_logits.float()
        teacher = self.task.padded(self.teacher[sample_ids.cpu()].to(narrow.device), inputs)
        confidences = self.task.confidence(torch.cat([narrow, teacher.unsqueeze(0)]), labels)
        router = router_loss(outputs.router_logits, narrowest_sure(confidences.T))
        return outputs, self.task.distillation_loss(narrow, teacher, labels), router

    def end(self) -> None:
        """Thaw what was frozen."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
