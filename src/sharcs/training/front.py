"""A later run: what answers before the encoder runs learns from the full network, on more texts than have labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from sharcs.model.layer_list import trunk_layers
from sharcs.subnetworks.compact import CompactSubnetwork
from sharcs.subnetworks.lexical import LexicalSubnetwork
from sharcs.subnetworks.recurrent import RecurrentSubnetwork
from sharcs.subnetworks.vectors import token_shares, token_vectors
from sharcs.tasks.base import UNLABELLED
from sharcs.training.later import LaterTrainer, Learner

if TYPE_CHECKING:
    from torch import Tensor

    from sharcs.model.outputs import SharcsOutput

RUN = "front"
# Learning rates, whatever the encoder's is: they are other networks.
RATES: dict[type[nn.Module], float] = {LexicalSubnetwork: 2e-3, RecurrentSubnetwork: 2e-3, CompactSubnetwork: 2e-4}
TEMPERATURE = 2.0  # of the answers that are learned from (Hinton et al., arXiv 1503.02531)


class FrontTrainer(LaterTrainer):
    """Trains what stands in front of the encoder; :class:`~sharcs.training.trainer.SharcsTrainer` makes it.

    Its arguments are those of :class:`~sharcs.training.base.RoutedTrainer`; rows without a label have −100.
    """

    run: ClassVar[str] = RUN
    lesson_widths: ClassVar[str] = "front"

    def networks(self) -> list[Any]:
        """List what stands in front."""
        return list(self.model.tail.front)

    def learners(self) -> list[Learner]:
        """List the parameters of each."""
        return [
            Learner(list(part.parameters()), RATES[type(part)] / self.args.learning_rate) for part in self.networks()
        ]

    def begin(self) -> None:
        """Begin compact networks with what matters in the encoder, and others with its tokens' vectors."""
        layers = [*trunk_layers(self.model.encoder), *self.model.tail.layers]
        for part in self.networks():
            if isinstance(part, CompactSubnetwork):
                first = layers[: part.spec.layers]
                part.inner.fill(first, self.orders_of(first))
            elif isinstance(part, LexicalSubnetwork):
                part.fill(self._vectors(part), token_shares(self.train_dataset, part.vectors.num_embeddings))
            else:
                part.fill(self._vectors(part))

    def _vectors(self, part: RecurrentSubnetwork | LexicalSubnetwork) -> Tensor:
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

    def lesson(self, outputs: SharcsOutput, teacher: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Half of what a labelled row teaches is its label, and the rest is the full network's answer."""
        assert outputs.width_logits is not None
        labels = inputs["labels"].reshape(-1)
        losses = [student_loss(answer, teacher, labels) for answer in outputs.width_logits.float()]
        return torch.stack(losses).sum()


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
