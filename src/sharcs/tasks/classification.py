"""One answer an input: of one label, of several, or numbers. Their labels checked, and what training minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from sharcs.errors import InputError
from sharcs.tasks.base import UNLABELLED, BaseTask, class_weights_of, problem_type_of
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from sharcs.config import SharcsConfig

# The names that the collators of transformers make "labels" of.
LABEL_COLUMNS = ("labels", "label", "label_ids")


@dataclass(frozen=True, slots=True)
class Task(BaseTask):
    """A problem type, and what its losses take from the training labels; see :func:`task_of`.

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

    def weighted_loss(self, logits: Tensor, labels: Tensor, sample_weight: Tensor) -> Tensor:
        """Compute the task loss with a weight a row, a scalar: that of :meth:`narrow_loss` where all weigh 1.

        Args:
            logits: ``[batch, labels]``.
            labels: See the class.
            sample_weight: ``[batch]``; 1 on average over the training rows.
        """
        if self.problem_type != SINGLE_LABEL:
            each = self._losses_of_rows(logits.float(), labels)
            return (each * sample_weight.to(each)).mean()
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        each = F.cross_entropy(logits.float(), labels, weight=weights, ignore_index=UNLABELLED, reduction="none")
        labelled = labels != UNLABELLED
        counts = labelled.to(each) if weights is None else weights[labels.clamp(min=0)] * labelled
        return (each * sample_weight.to(each)).sum() / counts.sum().clamp(min=torch.finfo(each.dtype).tiny)

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

    def _losses_of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of each row where labels are floats, by their weights: ``[batch]``."""
        if self.problem_type == REGRESSION:
            return self._sample_losses(logits, labels)
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
        return each.mean(dim=-1)

    def _sample_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the unweighted loss of each sample, mean over labels: ``[..., batch]``."""
        labels = labels.reshape(logits.shape[-2:]).expand_as(logits)
        if self.problem_type == MULTI_LABEL:
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=-1)
        assert self.variance is not None
        return ((logits - labels).square() / self.variance.to(logits)).mean(dim=-1)


def task_of(config: SharcsConfig, rows: Any, class_weights: str | Sequence[float] | None = None) -> Task:
    """Find out what training minimises.

    Args:
        config: The model's; where it names no problem type, the labels decide as in transformers: one label is a
            regression, several are classes where labels are whole numbers, and several labels of one input where
            they are floats.
        rows: The training data, a map-style data set. All its labels are read.
        class_weights: See :class:`sharcs.training.arguments.SharcsTrainingArguments`.

    Raises:
        InputError: If labels are missing, no numbers, of a wrong type or shape, out of range or all the same, or the
            weights don't fit them.
    """
    problem_type, count, labels = _problem_type(config, rows), int(config.num_labels or 0), None
    if problem_type == SINGLE_LABEL and count < 2:
        raise InputError(f"problem_type {SINGLE_LABEL}: takes two classes or more; set num_labels, or choose another")
    if problem_type == REGRESSION and config.routing_policy.escalates:
        raise InputError("policy escalation_threshold: a regression has no confidence; leave it None")
    if problem_type == REGRESSION and class_weights is not None:
        raise InputError("class_weights: a regression has no classes; leave them out")
    if problem_type == SINGLE_LABEL:
        return Task(problem_type, class_weights_of(class_weights, config, _class_indices(rows, count)))
    labels = _float_labels(rows, problem_type, count)
    if problem_type == REGRESSION:
        return Task(problem_type, variance=_variance(labels))
    return Task(problem_type, class_weights_of(class_weights, config, labels))


def _problem_type(config: SharcsConfig, rows: Any) -> str:
    if config.problem_type is None:
        floats = config.num_labels != 1 and _read(rows, 1).is_floating_point()
        return MULTI_LABEL if floats else problem_type_of(config)
    if config.problem_type not in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        raise InputError(
            f"problem_type {config.problem_type!r}: there is none; "
            f"choose {SINGLE_LABEL}, {MULTI_LABEL} or {REGRESSION}"
        )
    return config.problem_type


def _read(rows: Any, count: int | None = None) -> Tensor:
    """Read the first labels, or all, as they are stored: ``[rows, ...]``.

    Raises:
        InputError: If there are none, or they are no numbers of one type and shape.
    """
    names = getattr(rows, "column_names", None)
    name = next((name for name in LABEL_COLUMNS if name in (names or rows[0])), None)
    if name is None:
        raise InputError("train_dataset: its rows have no labels; add a column 'labels'")
    count = len(rows) if count is None else count
    # A column at once: rows of a data set would be decoded one after the other.
    values = rows[name][:count] if names else [rows[index][name] for index in range(count)]
    tensors = []
    for row, value in enumerate(values, start=1):
        try:
            tensors.append(torch.as_tensor(value))
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"train_dataset: row {row}: its labels are {value!r}; give numbers") from error
        if (tensors[-1].shape, tensors[-1].dtype) != (tensors[0].shape, tensors[0].dtype):
            raise InputError(
                f"train_dataset: row {row}: its labels are of another type or number than the first row's "
                f"({_kind(tensors[-1])} after {_kind(tensors[0])}); give all rows the same"
            )
    return torch.stack(tensors)


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _class_indices(rows: Any, num_labels: int) -> Tensor:
    """Read the labels of a single-label classification: int64 ``[rows that have one]``."""
    labels = _read(rows)
    if tuple(labels.shape[1:]) not in ((), (1,)) or labels.is_floating_point():
        raise InputError(
            f"train_dataset: its labels are {_kind(labels[0])}; {SINGLE_LABEL} takes a class index a row"
        )
    labels = labels.reshape(-1).long()
    wrong = ((labels < 0) & (labels != UNLABELLED)) | (labels >= num_labels)
    if wrong.any():
        row = int(wrong.int().argmax())
        raise InputError(
            f"train_dataset: row {row + 1}: its label is {int(labels[row])}; it has to be from 0 to "
            f"{num_labels - 1}, or {UNLABELLED} for none"
        )
    labelled = labels[labels != UNLABELLED]
    if len(labelled) == 0:
        raise InputError(f"train_dataset: all its labels are {UNLABELLED}, which stands for none; give some")
    return labelled


def _float_labels(rows: Any, problem_type: str, num_labels: int) -> Tensor:
    """Read the labels of a multi-label classification or a regression: float32 ``[rows, labels]``."""
    labels = _read(rows)
    if labels.dtype != torch.float32:
        # transformers' loss fails on whole numbers, and on doubles in the backward pass.
        raise InputError(
            f"train_dataset: its labels are {_kind(labels[0])}; {problem_type} takes single-precision floats, "
            "convert them"
        )
    shapes = [(num_labels,)] + [()] * (problem_type == REGRESSION and num_labels == 1)
    if tuple(labels.shape[1:]) not in shapes:
        raise InputError(
            f"train_dataset: a row has labels of shape {list(labels.shape[1:])}; {problem_type} of this model takes "
            f"[{num_labels}], since num_labels is {num_labels}"
        )
    labels = labels.reshape(len(labels), -1)
    wrong = ~labels.isfinite() if problem_type == REGRESSION else ~((labels >= 0) & (labels <= 1))
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        wanted = "a finite number" if problem_type == REGRESSION else "from 0 to 1"
        raise InputError(
            f"train_dataset: row {row + 1}: label {column} is {labels[row, column]:g}; it has to be {wanted}"
        )
    return labels


def _variance(labels: Tensor) -> Tensor:
    """Measure the variance of each output's labels ``[rows, labels]``: float32 ``[labels]``."""
    constant = (labels == labels[0]).all(dim=0)
    if constant.any():
        column = int(constant.int().argmax())
        raise InputError(
            f"train_dataset: label {column} is {labels[0, column]:g} in all {len(labels)} rows, so that there is "
            "nothing to learn; give rows with different labels, or drop it"
        )
    return labels.double().var(dim=0, correction=0).float()
