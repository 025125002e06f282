"""Answers of several labels as numbers, so that what compares classes compares whole answers: all labels right."""

from __future__ import annotations

import torch
from torch import Tensor

from sharcs.errors import InputError

__all__ = ["label_set", "look_up", "number_sets"]


def label_set(logits: Tensor) -> Tensor:
    """Take the labels with a probability above one half: bool, like the logits."""
    return logits > 0


def number_sets(sets: Tensor) -> tuple[Tensor, Tensor]:
    """Number the sets of labels, equal ones alike.

    Args:
        sets: bool ``[..., labels]``.

    Returns:
        The sets, bool ``[sets, labels]``, and the number of each input's, int64 ``[...]``.
    """
    known, number = torch.unique(sets.flatten(0, -2), dim=0, return_inverse=True)
    return known, number.reshape(sets.shape[:-1])


def look_up(known: Tensor, labels: Tensor) -> Tensor:
    """Number true labels as answers are; −1 where no answer is like them.

    Args:
        known: From :func:`number_sets`.
        labels: Zeros and ones, ``[inputs, labels]``.

    Returns:
        int64 ``[inputs]``.

    Raises:
        InputError: If they have another shape or other values.
    """
    if labels.dim() != 2 or labels.shape[1] != known.shape[1] or not ((labels == 0) | (labels == 1)).all():
        raise InputError(
            f"labels: of shape {list(labels.shape)}; each input needs {known.shape[1]} zeros and ones, one a label"
        )
    _, number = number_sets(torch.cat([known, labels.to(known)]))
    place = torch.full((int(number.max()) + 1,), -1)
    place[number[: len(known)]] = torch.arange(len(known))
    return place[number[len(known) :]]
