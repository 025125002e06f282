"""A later run: what answers before the encoder runs learns from the full network, on more texts than have labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812

from sharcs.model.layer_list import trunk_layers
from sharcs.subnetworks.compact import CompactSubnetwork
from sharcs.subnetworks.recurrent import RecurrentSubnetwork
from sharcs.subnetworks.vectors import token_vectors
from sharcs.tasks.losses import UNLABELLED
from sharcs.training.importance import measure_importance
from sharcs.training.later import LaterTrainer, Learner

if TYPE_CHECKING:
    from torch import Tensor

    from sharcs.model.base import RoutedModel

RUN = "front"
RECURRENT_RATE, COMPACT_RATE = 2e-3, 2e-4  # whatever the encoder's is: they are other networks
TEMPERATURE = 2.0  # of the answers that are learned from (Hinton et al., arXiv 1503.02531)


def front_learners(model: RoutedModel, learning_rate: float) -> list[Learner]:
    """List what learns in this run, by what stands in front of the encoder."""
    rates = [RECURRENT_RATE if isinstance(part, RecurrentSubnetwork) else COMPACT_RATE for part in model.tail.front]
    return [
        Learner(list(part.parameters()), rate / learning_rate)
        for part, rate in zip(model.tail.front, rates, strict=True)
    ]


class FrontTrainer(LaterTrainer):
    """Trains what stands in front of the encoder; :class:`~sharcs.training.trainer.SharcsTrainer` makes it.

    Its arguments are those of :class:`~sharcs.training.base.RoutedTrainer`; rows without a label have −100.
    """

    run: ClassVar[str] = RUN

    def learners(self) -> list[Learner]:
        """List the sub-networks' parameters."""
        return front_learners(self.model, self.args.learning_rate)

    def begin(self) -> None:
        """Begin compact networks with what matters in the encoder, and recurrent ones with its tokens' vectors."""
        layers = [*trunk_layers(self.model.encoder), *self.model.tail.layers]
        for part in self.model.tail.front:
            if isinstance(part, CompactSubnetwork):
                first = layers[: part.spec.layers]
                orders = None
                if self.args.importance_samples:
                    orders = measure_importance(self.model, self.importance_batches(), first).orders()
                part.inner.fill(first, orders)
            elif isinstance(part, RecurrentSubnetwork):
                part.fill(self._vectors(part))

    def _vectors(self, part: RecurrentSubnetwork) -> Tensor:
        """Ask the full network about every token alone."""
        was_training = self.model.training
        self.model.train(False)
        with torch.autocast(self.model.device.type, enabled=False):
            found = token_vectors(
                lambda tokens: self.model.last_states(input_ids=tokens, attention_mask=torch.ones_like(tokens)),
                part.vectors.num_embeddings,
                part.spec.hidden,
                self.train_dataset,
                self.model.device,
            )
        self.model.train(was_training)
        return found

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Half of what a labelled row teaches is its label, and the rest is the full network's answer."""
        sample_ids = inputs.pop("sample_id", None)
        if sample_ids is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.model.train(False)
        for part in self.model.tail.front:
            part.train(True)
        outputs = model(**inputs, widths="front")
        answers = outputs.width_logits.float()
        teacher = self.teacher_of(sample_ids, answers, inputs)
        labels = inputs["labels"].reshape(-1)
        loss = torch.stack([student_loss(answer, teacher, labels) for answer in answers]).sum()
        return (loss, outputs) if return_outputs else loss

    def evaluated_widths(self) -> list[float | str]:
        """List what is evaluated besides the routed network."""
        return self.widths


def student_loss(logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Learn from the teacher's answers and, where a row has a label, from that as much.

    Args:
        logits: ``[batch, labels]``.
        teacher: The teacher's, of the same shape.
        labels: int64 ``[batch]``; −100 for none.

    Returns:
        The mean over the batch, a scalar.
    """
    soft = (teacher / TEMPERATURE).log_softmax(-1)
    mine = (logits / TEMPERATURE).log_softmax(-1)
    distance = F.kl_div(mine, soft, reduction="none", log_target=True).sum(-1) * TEMPERATURE**2
    hard = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none")
    labelled = (labels != UNLABELLED).to(logits.dtype)
    return (distance * (1 - labelled / 2) + hard * labelled / 2).mean()
