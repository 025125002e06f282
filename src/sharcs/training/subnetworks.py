"""A later run of the recipe ``sharcs+``: narrow networks and router learn from the full network, which is fixed.

They come after fine-tuning, so that the full network is exactly what it would be without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sharcs.tasks.losses import router_loss
from sharcs.training.hardness import narrowest_sure
from sharcs.training.importance import measure_importance
from sharcs.training.later import LaterTrainer, Learner

if TYPE_CHECKING:
    from torch import nn

    from sharcs.model.base import RoutedModel

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

    def learners(self) -> list[Learner]:
        """List the narrow networks' parameters and the router's."""
        learning = learning_parameters(self.model)
        return [Learner(learning[kind], times) for kind, times in RATES.items()]

    def begin(self) -> None:
        """Cut the narrow networks out of the full one."""
        orders = None
        if self.args.importance_samples:
            orders = measure_importance(self.model, self.importance_batches()).orders()
        for network in narrow_networks(self.model):
            network.fill(list(self.model.tail.layers), orders)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """λ_task · the narrow networks' loss + λ_router · binary cross-entropy of the router.

        The router learns which is the narrowest width that is sure of the truth, by its confidence in this pass.
        Outside training it is the task loss of the routed network.
        """
        sample_ids = inputs.pop("sample_id", None)
        if sample_ids is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        assert self.task is not None
        # What is fixed is also free of dropout, so that everybody sees what will be there later.
        self.model.train(False)
        for network in narrow_networks(self.model):
            network.train(True)
        outputs = model(**inputs, widths="narrow")
        labels = self.task.labels_of(inputs)
        narrow = outputs.width_logits.float()
        teacher = self.teacher_of(sample_ids, narrow, inputs)
        confidences = self.task.confidence(torch.cat([narrow, teacher.unsqueeze(0)]), labels)
        task_loss = self.task.distillation_loss(narrow, teacher, labels)
        choices = outputs.router_logits[:, len(self.model.tail.front) :]
        loss_of_router = router_loss(choices, narrowest_sure(confidences.T))
        loss = self.args.task_loss_weight * task_loss + self.args.router_loss_weight * loss_of_router
        return (loss, outputs) if return_outputs else loss

    def evaluated_widths(self) -> list[float | str]:
        """List the widths that are evaluated besides the routed network."""
        return self.widths
