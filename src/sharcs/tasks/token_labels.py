"""What the training labels say where every token has an answer: token classification and question answering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sharcs.errors import InputError
from sharcs.tasks.labels import class_weights_of
from sharcs.tasks.losses import UNLABELLED
from sharcs.tasks.token_losses import SpanTask, TokenTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from sharcs.config import SharcsConfig


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
    for number, (ids, value) in enumerate(_columns(rows, ("input_ids", "labels")), start=1):
        labels = _whole_numbers(value, f"row {number}: its labels are")
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
    for number, values in enumerate(_columns(rows, names), start=1):
        for name, value in zip(names, values, strict=True):
            position = _whole_numbers(value, f"row {number}: its {name} is")
            if position.numel() != 1:
                raise InputError(f"train_dataset: row {number}: its {name} is {value!r}; give one number")
            if position < 0:
                # The plain model's loss would take it for the first token.
                raise InputError(
                    f"train_dataset: row {number}: its {name} is {int(position)}; it has to be a token's number, "
                    "from 0, or past the text if the answer was cut off"
                )
    return SpanTask()


def _columns(rows: Any, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
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


def _whole_numbers(value: Any, what: str) -> Tensor:
    try:
        numbers = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"train_dataset: {what} {value!r}; give whole numbers") from error
    if numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex():
        if numbers.numel() == 0:
            return numbers.long()  # an empty list has no type of its own
        raise InputError(f"train_dataset: {what} {value!r}; give whole numbers")
    return numbers.long()
