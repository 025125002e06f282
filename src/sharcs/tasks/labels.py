"""Which problem a model is trained for, and what the training labels say: their variance, the weights of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sharcs.errors import InputError
from sharcs.tasks.losses import MULTI_LABEL, REGRESSION, SINGLE_LABEL, UNLABELLED, Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedConfig

    from sharcs.config import SharcsConfig

BALANCED = "balanced"
# The names that the collators of transformers make "labels" of.
LABEL_COLUMNS = ("labels", "label", "label_ids")


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
