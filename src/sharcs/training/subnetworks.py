"""A later run of the recipe ``sharcs+``: narrow networks and router learn from the full network, which is fixed.

They come after fine-tuning, so that the full network is exactly what it would be without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sharcs.tasks.base import router_loss
from sharcs.training.hardness import narrowest_sure
from sharcs.training.later import LaterTrainer, Learner

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sharcs.model.base import RoutedModel
    from sharcs.model.outputs import SharcsOutput

RUN = "sub-networks"
# Of the learning rate: what starts far from its end learns faster.
RATES = {"narrow": 2, "router": 10}


def narrow_networks(model: RoutedModel) -> list[Any]:
    """List the sub-networks that learn from the full one in this run."""
    return list(model.tail.narrow)


def learning_parameters(model: RoutedModel) -> dict[str, list[nn.Parameter]]:
    """List what learns in this run: the narrow networks' parameters and the router's."""
    narrow = [parameter for network in narrow_networks(model) for parameter in network.parameters()]
    return {"narrow": narrow, "router": list(model.tail.router.parameters())}


class SubnetworkTrainer(LaterTrainer):
    """Trains narrow networks and router on what the full network, fixed, answers; :class:`SharcsTrainer` makes it.

    Its arguments are those of :class:`~sharcs.training.base.RoutedTrainer`.
    """

    run: ClassVar[str] = RUN
    lesson_widths: ClassVar[str] = "narrow"

    def networks(self) -> list[Any]:
        """List the narrow networks."""
        return narrow_networks(self.model)

    def learners(self) -> list[Learner]:
        """List the narrow networks' parameters and the router's."""
        learning = learning_parameters(self.model)
        return [Learner(learning[kind], times) for kind, times in RATES.items()]

    def begin(self) -> None:
        """Cut the narrow networks out of the full one."""
        layers = list(self.model.tail.layers)
        orders = self.orders_of(layers)
        for network in self.networks():
            network.fill(layers, orders)

    def lesson(self, outputs: SharcsOutput, teacher: Tensor, inputs: dict[str, Any]) -> Tensor:
        """λ_task · the narrow networks' loss + λ_router · binary cross-entropy of the router.

        The router learns which is the narrowest width that is sure of the truth, by its confidence in this pass.
        """
        assert self.task is not None
        assert outputs.width_logits is not None
        assert outputs.router_logits is not None
        labels, narrow = self.task.labels_of(inputs), outputs.width_logits.float()
        confidences = self.task.confidence(torch.cat([narrow, teacher.unsqueeze(0)]), labels)
        task_loss = self.task.distillation_loss(narrow, teacher, labels)
        choices = outputs.router_logits[:, len(self.model.tail.front) :]
        loss_of_router = router_loss(choices, narrowest_sure(confidences.T))
        return self.args.task_loss_weight * task_loss + self.args.router_loss_weight * loss_of_router
