"""What a training step minimises, and how sure an answer is of the truth, for each problem type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# As Hugging Face configurations name them.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
# The label of what doesn't count, as everywhere in transformers.
UNLABELLED = -100


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


@dataclass(frozen=True, slots=True)
class Task(BaseTask):
    """A problem type, and what its losses take from the training labels; see :func:`sharcs.tasks.labels.task_of`.

    Labels are int64 class indices ``[batch]`` of one label, −100 where a sample has none, and floats
    ``[batch, labels]`` of several; those of a regression are floats ``[batch, labels]``, or ``[batch]`` where there
    is one output.

    Attributes:
        problem_type: As in Hugging Face configurations.
        class_weights: Of the classes in the cross-entropy; of several labels, of their positives in the binary
            cross-entropy. ``[labels]``, or None.
        variance: Of each output's training labels, ``[labels]``; regressions alone have it.
    """

    problem_type: str
    class_weights: Tensor | None = None
    variance: Tensor | None = None

    def labels_of(self, inputs: Mapping[str, Any]) -> Tensor:
        """Take the labels from a batch; a data set may hold class indices as ``[batch, 1]``."""
        labels: Tensor = inputs["labels"]
        return labels.reshape(-1) if self.problem_type == SINGLE_LABEL else labels

    def confidence(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Measure how sure an answer is of the truth: exp(−loss of the sample).

        It is the probability of the true class (paper, section 3.1), and extends it to the other problem types:

        - of several labels, the geometric mean of the probabilities that each label is given to be as it is;
        - of a regression, exp(−squared error / variance of the training labels), the mean over outputs in the
          exponent. It doesn't hang on the labels' unit; 0.8 is an error of 0.47 standard deviations, and e⁻¹ one of a
          standard deviation, as who always answers the mean makes.

        Class weights play no part: a class that matters more is not harder for it. A sample without a label is sure:
        no width could answer it better.

        Args:
            logits: ``[..., batch, labels]``.
            labels: See the class.

        Returns:
            float32 ``[..., batch]`` from 0 to 1, without gradient.
        """
        logits = logits.detach().float()
        if self.problem_type != SINGLE_LABEL:
            return (-self._sample_losses(logits, labels)).exp()
        # Not through the logarithm, whose rounding would show.
        index = labels.clamp(min=0).expand(logits.shape[:-1]).unsqueeze(-1)
        probabilities = logits.softmax(dim=-1).gather(-1, index).squeeze(-1)
        return probabilities.masked_fill(labels == UNLABELLED, 1.0)

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """Take a pass's task loss; see the base class."""
        return outputs.loss if self.class_weights is None else self.narrow_loss(outputs.logits, labels)

    def narrow_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the task loss of logits ``[batch, labels]``, a scalar.

        It is the cross-entropy, weighted by torch's rules (a mean by weight; positives times ``pos_weight``), or the
        mean squared error over the labels' variance, which puts it on one scale with the divergence.
        """
        logits, weights = logits.float(), None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.problem_type == SINGLE_LABEL:
            if bool((labels == UNLABELLED).all()):
                return logits.sum() * 0.0  # the mean over no sample would be NaN
            return F.cross_entropy(logits, labels, weight=weights, ignore_index=UNLABELLED)
        if self.problem_type == MULTI_LABEL:
            return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
        return self._sample_losses(logits, labels).mean()

    def divergence(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """Measure how far the student's answer is from the teacher's, which gets no gradient.

        Kullback–Leibler divergence from the teacher's probabilities; of several labels, the mean over their Bernoulli
        distributions. Of a regression, the squared difference over the training labels' variance, mean over outputs.

        Args:
            student: Logits, ``[batch, labels]``.
            teacher: Logits, ``[batch, labels]``.
            labels: Not read.

        Returns:
            Mean over the batch, a scalar.
        """
        student, teacher = student.float(), teacher.detach().float()
        if self.problem_type == REGRESSION:
            return self._sample_losses(student, teacher).mean()
        if self.problem_type == SINGLE_LABEL:
            log_probabilities, target = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
            return F.kl_div(log_probabilities, target, reduction="batchmean", log_target=True)
        log_probabilities, target = (F.logsigmoid(torch.stack([x, -x])) for x in (student, teacher))
        return F.kl_div(log_probabilities, target, reduction="sum", log_target=True) / student.numel()

    def _sample_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the unweighted loss of each sample, mean over labels: ``[..., batch]``."""
        labels = labels.reshape(logits.shape[-2:]).expand_as(logits)
        if self.problem_type == MULTI_LABEL:
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=-1)
        assert self.variance is not None
        return ((logits - labels).square() / self.variance.to(logits)).mean(dim=-1)


def router_loss(router_logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of every width's score (paper, section 3.3).

    Args:
        router_logits: ``[batch, widths]``.
        target: From 0 to 1, ``[batch, widths]``.

    Returns:
        A scalar.
    """
    return F.binary_cross_entropy_with_logits(router_logits, target.to(router_logits))
