"""An answer for every token: token classification, and what it shares with spans.

Only what is counted is learned from: tokens with a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from sharcs.errors import InputError
from sharcs.tasks.base import UNLABELLED, BaseTask, class_weights_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from sharcs.config import SharcsConfig


def real_tokens(inputs: Mapping[str, Any]) -> Tensor:
    """Tell which tokens of a batch are no padding: bool ``[batch, tokens]``."""
    mask: Tensor | None = inputs.get("attention_mask")
    if mask is not None:
        return mask != 0
    tokens: Tensor = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


class AnswerForEveryToken(BaseTask):
    """Keeps the answers of real tokens; a batch may pad them at either side."""

    __slots__ = ()

    def kept(self, answers: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Cut ``[batch, tokens, ...]`` into the real tokens' answers of each input, ``[real tokens, ...]``."""
        real = real_tokens(inputs).to(answers.device)
        return [of_row[of_tokens] for of_row, of_tokens in zip(answers, real, strict=True)]

    def padded(self, kept: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Put ``[batch, longest, ...]`` onto the batch's real tokens, ``[batch, tokens, ...]``; zeros elsewhere."""
        real = real_tokens(inputs)
        there = torch.arange(kept.shape[1], device=kept.device) < real.sum(dim=1, keepdim=True)
        answers = kept.new_zeros(*real.shape, *kept.shape[2:])
        answers[real] = kept[there]
        return answers


@dataclass(frozen=True, slots=True)
class TokenTask(AnswerForEveryToken):
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


def token_task_of(config: SharcsConfig, rows: Any, class_weights: str | Sequence[float] | None = None) -> TokenTask:
    """Check all labels of a token classification.

    Args:
        config: The model's.
        rows: The training data, a map-style data set with ``input_ids`` and ``labels``: a class index a token, or
            −100 where it has none.
        class_weights: See :class:`sharcs.training.arguments.SharcsTrainingArguments`; balanced ones go by labelled
            tokens.

    Raises:
        InputError: If labels are missing, no whole numbers, not as many as tokens or out of range, no token has one,
            or the weights don't fit them.
    """
    count = int(config.num_labels or 0)
    if count < 2:
        raise InputError("num_labels: token classification takes two classes or more; set num_labels")
    found = []
    for number, (ids, value) in enumerate(columns(rows, ("input_ids", "labels")), start=1):
        labels = whole_numbers(value, f"row {number}: its labels are")
        if labels.shape != (len(ids),):
            raise InputError(
                f"train_dataset: row {number}: it has labels of shape {list(labels.shape)} for {len(ids)} tokens; "
                f"give one a token, {UNLABELLED} where it has none"
            )
        found.append(labels[labels != UNLABELLED])
        wrong = (found[-1] < 0) | (found[-1] >= count)
        if wrong.any():
            label = int(found[-1][wrong][0])
            place = labels.tolist().index(label)
            raise InputError(
                f"train_dataset: row {number}: the label of token {place} is {label}; it has to be from 0 to "
                f"{count - 1}, or {UNLABELLED} for none"
            )
    all_labels = torch.cat(found)
    if len(all_labels) == 0:
        raise InputError(f"train_dataset: all its labels are {UNLABELLED}, which stands for none; give some")
    return TokenTask(class_weights_of(class_weights, config, all_labels))


def columns(rows: Any, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Read some columns row by row."""
    present = getattr(rows, "column_names", None)
    missing = [name for name in names if name not in (present or rows[0])]
    if missing:
        raise InputError(f"train_dataset: its rows have no {' and no '.join(missing)}; add that")
    if present:
        # A column at once: rows of a data set would be decoded one after the other.
        yield from zip(*(rows[name][:] for name in names), strict=True)
        return
    for index in range(len(rows)):
        row = rows[index]
        if any(name not in row for name in names):
            raise InputError(f"train_dataset: row {index + 1}: it has not all of {', '.join(names)}; add them")
        yield tuple(row[name] for name in names)


def whole_numbers(value: Any, what: str) -> Tensor:
    """Read a row's value as int64; ``what`` it is begins the message if it is something else."""
    try:
        numbers = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"train_dataset: {what} {value!r}; give whole numbers") from error
    if numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex():
        if numbers.numel() == 0:
            return numbers.long()  # an empty list has no type of its own
        raise InputError(f"train_dataset: {what} {value!r}; give whole numbers")
    return numbers.long()
