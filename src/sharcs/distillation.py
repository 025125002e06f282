"""The second phase of the recipe ``sharcs+``: narrow networks and router learn from the full network, which is fixed.

They come after fine-tuning, so that the full network is exactly what it would be without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sharcs.hardness import narrowest_sure
from sharcs.importance import measure_importance
from sharcs.losses import distillation_loss, router_loss, true_class_probability

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from sharcs.routed import RoutedModel

__all__ = ["SubnetworkPhase"]


class SubnetworkPhase:
    """Freezes the full network and says what a step minimises.

    Args:
        model: The routed network; its full width is fine-tuned.
        teacher: The full network's logits on every training row, ``[rows, labels]``, if the phase is taken up again.
    """

    def __init__(self, model: RoutedModel, teacher: Tensor | None = None) -> None:
        """Freeze."""
        self.model = model
        self.teacher = teacher
        learning = {*model.tail.private.parameters(), *model.tail.router.parameters()}
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
        for subnetwork in tail.private:
            subnetwork.fill(list(tail.layers), importance)  # type: ignore[operator]
        numbers: list[int] = []
        answers = []
        was_training = self.model.training
        self.model.train(False)
        with torch.no_grad():
            for rows, batch in batches:
                numbers += rows
                answers.append(self.model(**batch, width=1.0).logits.float().cpu())
        self.model.train(was_training)
        self.teacher = torch.cat(answers)[torch.tensor(numbers).argsort()]

    def losses(self, model: nn.Module, inputs: dict[str, Any], sample_ids: Tensor) -> tuple[Any, Tensor, Tensor]:
        """Compute a step's outputs, the narrow networks' loss and the router's.

        The router learns which is the narrowest width that is sure of the truth, by its confidence in this pass.
        """
        assert self.teacher is not None
        # What is fixed is also free of dropout, so that everybody sees what will be there later.
        self.model.train(False)
        self.model.tail.private.train(True)
        outputs, labels = model(**inputs, all_widths=True, narrow_only=True), inputs["labels"]
        teacher = self.teacher[sample_ids.cpu()].to(labels.device)
        narrow = outputs.width_logits.float()
        confidences = true_class_probability(torch.cat([narrow, teacher.unsqueeze(0)]), labels)
        router = router_loss(outputs.router_logits, narrowest_sure(confidences.T))
        return outputs, distillation_loss(narrow, teacher, labels), router

    def end(self) -> None:
        """Thaw what was frozen."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
