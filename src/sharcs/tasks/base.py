"""What recipes ask of a task, and what tasks share: problem types, the router's loss, weights of classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from sharcs.errors import InputError
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedConfig

    from sharcs.config import SharcsConfig

# The label of what doesn't count, as everywhere in transformers.
UNLABELLED = -100
BALANCED = "balanced"


class BaseTask(ABC):
    """What both recipes ask of a task. Answers are what the model's ``answer_of`` takes from its outputs."""

    __slots__ = ()

    def labels_of(self, inputs: Mapping[str, Any]) -> Any:
        """Take from a batch what the losses below are told of it."""
        return inputs["labels"]

    @abstractmethod
    def confidence(self, logits: Tensor, labels: Any) -> Tensor:
        """Measure how sure answers ``[..., batch, ...]`` are of the truth: float32 ``[..., batch]``, from 0 to 1."""

    @abstractmethod
    def loss(self, outputs: Any, labels: Any) -> Tensor:
        """Take a pass's task loss, a scalar: the model's own, unless classes are weighted."""

    def weighted_loss(self, logits: Tensor, labels: Any, sample_weight: Tensor) -> Tensor:
        """Compute the task loss with a weight a row.

        Raises:
            InputError: If the task knows none.
        """
        raise InputError("sample_weight: rows whose answers lie in tokens have none; leave the column out")

    @abstractmethod
    def narrow_loss(self, logits: Tensor, labels: Any) -> Tensor:
        """Compute the task loss of a narrow width's answers ``[batch, ...]``, a scalar."""

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Measure how far answers ``[batch, ...]`` are from the teacher's, which get no gradient: a scalar."""

    def distillation_loss(self, narrow_logits: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Sum up the task loss of every narrow width, and its divergence from the full network.

        Args:
            narrow_logits: ``[narrow widths, batch, ...]``.
            teacher: The full network's answers, ``[batch, ...]``.
            labels: See :meth:`labels_of`.

        Returns:
            The sum over widths, a scalar.
        """
        return torch.stack(
            [self.narrow_loss(logits, labels) + self.divergence(logits, teacher, labels) for logits in narrow_logits]
        ).sum()

    # Answers that are kept for later batches, which may be padded otherwise

    def kept(self, answers: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Cut a batch's answers into those of each input, without padding."""
        return list(answers)

    def padded(self, kept: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Pad the kept answers of a batch's inputs, ``[batch, ...]`` and padded at the end, as the batch is."""
        return kept


def router_loss(router_logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of every width's score (paper, section 3.3).

    Args:
        router_logits: ``[batch, widths]``.
        target: From 0 to 1, ``[batch, widths]``.

    Returns:
        A scalar.
    """
    return F.binary_cross_entropy_with_logits(router_logits, target.to(router_logits))


def problem_type_of(config: PreTrainedConfig) -> str:
    """Tell a model's problem type; where it names none, by the number of labels as transformers does."""
    return config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)


def require_one_label(problem_type: str, what: str) -> None:
    """Refuse a model that doesn't name one class for each input.

    Args:
        problem_type: The model's.
        what: What needs it, to begin the message.

    Raises:
        InputError: If it doesn't.
    """
    if problem_type != SINGLE_LABEL:
        raise InputError(
            f"{what}: the model is no classifier with one label for each input (problem_type {problem_type}); "
            "train it with SharcsTrainer and call it from Python"
        )


def require_right_or_wrong(problem_type: str | None, what: str) -> None:
    """Refuse a model whose answers are not right or wrong as a whole.

    Args:
        problem_type: The model's.
        what: What needs it, to begin the message.

    Raises:
        InputError: If it is a regression, or answers for tokens.
    """
    if problem_type not in (None, SINGLE_LABEL, MULTI_LABEL):
        raise InputError(
            f"{what}: counts answers that are right or the full network's, and those of the model are neither "
            f"(problem_type {problem_type}); measure it with 'sharcs evaluate'"
        )


def require_one_answer(problem_type: str, what: str) -> None:
    """Refuse a model whose answers lie in tokens; one class, a set of labels and numbers are answers to an input.

    Args:
        problem_type: The model's.
        what: What needs it, to begin the message.

    Raises:
        InputError: If it is one.
    """
    if problem_type not in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        raise InputError(
            f"{what}: the model has not one answer for each input (problem_type {problem_type}); train it with "
            "SharcsTrainer and call it from Python"
        )


def class_weights_of(
    class_weights: str | Sequence[float] | None, config: SharcsConfig, labels: Tensor | None
) -> Tensor | None:
    """Make a tensor of class weights, float32 ``[labels]``.

    Args:
        class_weights: See :class:`sharcs.training.arguments.SharcsTrainingArguments`.
        config: The model's.
        labels: Of the training data, int64 ``[labels given]`` or floats ``[rows, labels]``; balanced ones need them.

    Raises:
        InputError: If the weights don't fit the labels.
    """
    if class_weights is None:
        return None
    if class_weights == BALANCED:
        assert labels is not None
        return _balanced(labels, [str(name) for _, name in sorted((config.id2label or {}).items())])
    if len(class_weights) != config.num_labels:
        raise InputError(
            f"class_weights: are {len(class_weights)}, and the model has {config.num_labels} labels; give one a label"
        )
    return torch.tensor(class_weights)


def _balanced(labels: Tensor, names: list[str]) -> Tensor:
    """Compute weights, float32 ``[labels]``, from class indices ``[rows]`` or floats ``[rows, labels]``."""
    if labels.is_floating_point():
        have = labels.double().sum(dim=0)
        lack = len(labels) - have
    else:
        have = torch.bincount(labels, minlength=len(names)).double()
        lack = torch.full_like(have, len(labels) / len(names))  # what each class has where all have as many
    useless = (have == 0) | (lack == 0)
    if useless.any():
        index = int(useless.int().argmax())
        raise InputError(
            f"class_weights {BALANCED}: {'no' if have[index] == 0 else 'every'} training row has the label "
            f"{names[index]!r}, which gives it no weight; give a list of weights, or other rows"
        )
    return (lack / have).float()
