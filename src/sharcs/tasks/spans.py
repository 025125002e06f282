"""Question answering: where in a text the answer begins and ends.

Only the tokens of the text are learned from, and no padding, on which answers can't lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from sharcs.errors import InputError
from sharcs.tasks.tokens import AnswerForEveryToken, columns, real_tokens, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


def over_real_tokens(logits: Tensor, real: Tensor) -> Tensor:
    """Take padding out of a softmax over tokens.

    Args:
        logits: ``[..., batch, tokens, 2]``.
        real: bool ``[batch, tokens]``.

    Returns:
        float32, like ``logits``, with the least finite number on padding: infinities would make a divergence NaN.
    """
    return logits.float().masked_fill(~real.unsqueeze(-1), torch.finfo(torch.float32).min)


class SpanLabels(NamedTuple):
    """Where answers lie in a batch of texts.

    Attributes:
        positions: Of the first and the last token, int64 ``[batch, 2]``; past the text where it was cut off.
        real: Which tokens are no padding, bool ``[batch, tokens]``.
    """

    positions: Tensor
    real: Tensor


class SpanTask(AnswerForEveryToken):
    """Question answering: the first and the last token of the answer, chosen among the real tokens of the text."""

    __slots__ = ()

    def labels_of(self, inputs: Mapping[str, Any]) -> SpanLabels:
        """Take the positions and what tells padding."""
        positions = [inputs[name].reshape(-1) for name in ("start_positions", "end_positions")]
        return SpanLabels(torch.stack(positions, dim=-1), real_tokens(inputs))

    def confidence(self, logits: Tensor, labels: SpanLabels) -> Tensor:
        """Measure how sure an answer is of the truth: exp(−loss of the sample).

        That is the geometric mean of the probabilities of the true start and the true end; of one of them where the
        other lies past the text. If both do, the sample is sure.

        Args:
            logits: ``[..., batch, tokens, 2]``.
            labels: See :class:`SpanLabels`.

        Returns:
            float32 ``[..., batch]`` from 0 to 1, without gradient.
        """
        losses, inside = self._losses(logits.detach(), labels)
        return (-losses.sum(dim=-1) / inside.sum(dim=-1).clamp(min=1)).exp()

    def loss(self, outputs: Any, labels: SpanLabels) -> Tensor:
        """Take a pass's task loss, the model's own, which takes padding for tokens of the text."""
        return outputs.loss  # type: ignore[no-any-return]

    def narrow_loss(self, logits: Tensor, labels: SpanLabels) -> Tensor:
        """Compute the mean of the starts' and the ends' cross-entropy of logits ``[batch, tokens, 2]``, a scalar.

        Each is a mean over the batch without the positions that lie past the text, as in transformers; zero, and not
        NaN, if all do.
        """
        losses, inside = self._losses(logits, labels)
        return (losses.sum(dim=0) / inside.sum(dim=0).clamp(min=1)).mean()

    def divergence(self, student: Tensor, teacher: Tensor, labels: SpanLabels) -> Tensor:
        """Measure the Kullback–Leibler divergence from the teacher's probabilities, mean over starts and ends.

        Args:
            student: Logits, ``[batch, tokens, 2]``.
            teacher: Logits, ``[batch, tokens, 2]``, which get no gradient.
            labels: See :class:`SpanLabels`.

        Returns:
            Mean over the batch, a scalar; samples whose answer lies past the text are among it.
        """
        log_probabilities, target = (
            over_real_tokens(x, labels.real).log_softmax(dim=-2) for x in (student, teacher.detach())
        )
        return F.kl_div(log_probabilities, target, reduction="sum", log_target=True) / (2 * len(student))

    def _losses(self, logits: Tensor, labels: SpanLabels) -> tuple[Tensor, Tensor]:
        """Compute the losses of both positions, ``[..., batch, 2]``, and tell which are inside, ``[batch, 2]``."""
        positions, real = labels
        index = positions.clamp(0, real.shape[1] - 1)
        inside = real.gather(1, index) & (positions < real.shape[1])
        log_probabilities = over_real_tokens(logits, real).log_softmax(dim=-2)
        index = index.unsqueeze(-2).expand(*logits.shape[:-2], 1, 2)
        losses = -log_probabilities.gather(-2, index).squeeze(-2)
        return losses.masked_fill(~inside, 0.0), inside


def span_task_of(rows: Any, class_weights: str | Sequence[float] | None = None) -> SpanTask:
    """Check all positions of a question answering.

    Args:
        rows: The training data, a map-style data set with ``start_positions`` and ``end_positions``.
        class_weights: None.

    Raises:
        InputError: If positions are missing, no whole numbers or negative, or class weights are given.
    """
    if class_weights is not None:
        raise InputError("class_weights: question answering has no classes; leave them out")
    names = ("start_positions", "end_positions")
    for number, values in enumerate(columns(rows, names), start=1):
        for name, value in zip(names, values, strict=True):
            position = whole_numbers(value, f"row {number}: its {name} is")
            if position.numel() != 1:
                raise InputError(f"train_dataset: row {number}: its {name} is {value!r}; give one number")
            if position < 0:
                # The plain model's loss would take it for the first token.
                raise InputError(
                    f"train_dataset: row {number}: its {name} is {int(position)}; it has to be a token's number, "
                    "from 0, or past the text if the answer was cut off"
                )
    return SpanTask()
