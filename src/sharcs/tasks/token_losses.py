"""What a training step minimises where every token has an answer: token classification and question answering.

Only what is counted is learned from: of token classification, tokens with a label; of question answering, the tokens
of the text and no padding, on which answers can't lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from sharcs.tasks.losses import UNLABELLED, BaseTask

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def _real_tokens(inputs: Mapping[str, Any]) -> Tensor:
    """Tell which tokens of a batch are no padding: bool ``[batch, tokens]``."""
    mask: Tensor | None = inputs.get("attention_mask")
    if mask is not None:
        return mask != 0
    tokens: Tensor = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


class _AnswerForEveryToken(BaseTask):
    """Keeps the answers of real tokens; a batch may pad them at either side."""

    __slots__ = ()

    def kept(self, answers: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Cut ``[batch, tokens, ...]`` into the real tokens' answers of each input, ``[real tokens, ...]``."""
        real = _real_tokens(inputs).to(answers.device)
        return [of_row[of_tokens] for of_row, of_tokens in zip(answers, real, strict=True)]

    def padded(self, kept: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Put ``[batch, longest, ...]`` onto the batch's real tokens, ``[batch, tokens, ...]``; zeros elsewhere."""
        real = _real_tokens(inputs)
        there = torch.arange(kept.shape[1], device=kept.device) < real.sum(dim=1, keepdim=True)
        answers = kept.new_zeros(*real.shape, *kept.shape[2:])
        answers[real] = kept[there]
        return answers


@dataclass(frozen=True, slots=True)
class TokenTask(_AnswerForEveryToken):
    """Token classification. Labels are class indices, int64 ``[batch, tokens]``, or −100 where a token has none.

    Attributes:
        class_weights: Of the classes in the cross-entropy, ``[labels]``, or None.
    """

    class_weights: Tensor | None = None

    def confidence(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Measure how sure an answer is of the truth: exp(−mean loss over the sample's labelled tokens).

        That is the geometric mean of the probabilities of the true classes; where one token has a label, the paper's
        confidence (section 3.1). A sample without labels is sure: no width could answer it better.

        Args:
            logits: ``[..., batch, tokens, labels]``.
            labels: See the class.

        Returns:
            float32 ``[..., batch]`` from 0 to 1, without gradient.
        """
        counts = (labels != UNLABELLED).sum(dim=-1).clamp(min=1)
        return (-_token_losses(logits.detach(), labels).sum(dim=-1) / counts).exp()

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """Take a pass's task loss; see the base class."""
        return outputs.loss if self.class_weights is None else self.narrow_loss(outputs.logits, labels)

    def narrow_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the cross-entropy of logits ``[batch, tokens, labels]``, a scalar.

        It is a mean over all labelled tokens of the batch, as in transformers, by weight if there are weights; zero,
        and not NaN, if no token has a label.
        """
        weights = (labels != UNLABELLED).float()
        if self.class_weights is not None:
            weights = weights * self.class_weights.to(logits.device)[labels.clamp(min=0)]
        total = weights.sum()
        return (_token_losses(logits, labels) * weights).sum() / torch.where(total > 0, total, 1)

    def divergence(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Measure the Kullback–Leibler divergence from the teacher's probabilities, mean over labelled tokens.

        Args:
            student: Logits, ``[batch, tokens, labels]``.
            teacher: Logits, ``[batch, tokens, labels]``, which get no gradient.
            labels: See the class.

        Returns:
            A scalar, zero if no token has a label.
        """
        counted = labels != UNLABELLED
        log_probabilities, target = (x[counted].float().log_softmax(dim=-1) for x in (student, teacher.detach()))
        total = F.kl_div(log_probabilities, target, reduction="sum", log_target=True)
        return total / counted.sum().clamp(min=1)


def _token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of each token ``[..., batch, tokens]``, zero where it has no label."""
    index = labels.clamp(min=0).expand(logits.shape[:-1]).unsqueeze(-1)
    losses = -logits.float().log_softmax(dim=-1).gather(-1, index).squeeze(-1)
    return losses.masked_fill(labels == UNLABELLED, 0.0)


class SpanLabels(NamedTuple):
    """Where answers lie in a batch of texts.

    Attributes:
        positions: Of the first and the last token, int64 ``[batch, 2]``; past the text where it was cut off.
        real: Which tokens are no padding, bool ``[batch, tokens]``.
    """

    positions: Tensor
    real: Tensor


class SpanTask(_AnswerForEveryToken):
    """Question answering: the first and the last token of the answer, chosen among the real tokens of the text."""

    __slots__ = ()

    def labels_of(self, inputs: Mapping[str, Any]) -> SpanLabels:
        """Take the positions and what tells padding."""
        positions = [inputs[name].reshape(-1) for name in ("start_positions", "end_positions")]
        return SpanLabels(torch.stack(positions, dim=-1), _real_tokens(inputs))

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
