"""Confidence history and hardness labels (paper, section 3.1): pure tensors, no model.

A sample's hardness label is a 0/1 vector over widths: a width is 1 when all of the sample's last W confidences lie
in the width's confidence band.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Band = tuple[float, float]

# The paper's bands: [0.8, 1] for the narrowest width, [0.5, 0.8] and [0, 0.5] for the next ones of three.
EASIEST_FROM = 0.8
HARDER_FROM = 0.5


def confidence_bands(widths: Sequence[float], given: Mapping[float, Band] | None = None) -> list[Band]:
    """Complete and check the confidence bands.

    Args:
        widths: The network's widths, ascending.
        given: Bands by width; the others get the paper's: narrow widths share [0.5, 1] with the easiest from 0.8,
            the full width has the rest. Bands may overlap.

    Returns:
        A band ``(low, high)`` for every width.

    Raises:
        InputError: If a band is outside [0, 1], empty, or belongs to no width.
    """
    narrow = len(widths) - 1
    step = (EASIEST_FROM - HARDER_FROM) / max(1, narrow - 1)
    lows = [EASIEST_FROM - step * index for index in range(narrow)] + [0.0]
    highs = [1.0, *lows[:-1]]
    bands = list(zip(lows, highs, strict=True))
    for width, band in (given or {}).items():
        if width not in widths:
            known = ", ".join(f"{known:g}" for known in widths)
            raise InputError(f"band {width:g}: the network has the widths {known}; give bands to these only")
        low, high = band
        if not 0 <= low < high <= 1:
            raise InputError(f"band {width:g}={low:g},{high:g}: low and high have to ascend within [0, 1]")
        bands[list(widths).index(width)] = (float(low), float(high))
    return bands


def hardness_labels(confidences: Tensor, bands: Sequence[Band]) -> Tensor:
    """Turn the last W confidences of each sample into its hardness label.

    Bands are half-open, ``low <= confidence < high``, except that a band which ends at 1.0 includes it: the easiest
    samples reach a confidence of exactly 1. A sample that fits no band, or has a confidence missing (NaN), gets the
    full width.

    Args:
        confidences: ``[samples, window]``, NaN where none was recorded.
        bands: ``(low, high)`` for every width, ascending; the last is the full width's.

    Returns:
        float32 ``[samples, widths]`` of zeros and ones, at least one in every row.
    """
    columns = []
    for low, high in bands:
        inside = (confidences >= low) & ((confidences <= high) if high >= 1 else (confidences < high))
        columns.append(inside.all(dim=1))
    labels = torch.stack(columns, dim=1)
    labels[~labels.any(dim=1), -1] = True
    return labels.float()


def narrowest_sure(confidences: Tensor) -> Tensor:
    """Label each sample with the narrowest width that is sure of the truth, by each width's own confidence.

    The hardness label of the recipe ``sharcs+``, which runs every width on every batch: no window, and no mixture of
    widths in it.

    Args:
        confidences: Of every width in the truth, ``[batch, widths]``; see
            :meth:`sharcs.tasks.classification.Task.confidence`.

    Returns:
        float32 ``[batch, widths]``, a single one in every row: at the first width from a confidence of 0.8, at the
        full width where no narrow one has it.
    """
    sure = confidences >= EASIEST_FROM
    sure[:, -1] = True
    first = sure.int().argmax(dim=1)
    return torch.nn.functional.one_hot(first, confidences.shape[1]).float()


def assign_widths(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the width at which each sample is trained this epoch, uniformly from its labelled ones.

    Args:
        labels: ``[samples, widths]`` of zeros and ones, at least one in every row.
        generator: Source of randomness, on the CPU.

    Returns:
        Width indices, int64 ``[samples]``.
    """
    return torch.multinomial(labels, 1, generator=generator).squeeze(1)


class ConfidenceHistory:
    """The last W epochs' confidences of every training sample.

    Args:
        num_samples: Number of training samples; their ids run from 0.
        window: W, in epochs.
    """

    def __init__(self, num_samples: int, window: int) -> None:
        """Start without any confidence."""
        self.values = torch.full((num_samples, window), torch.nan)

    def record(self, epoch: int, sample_ids: Tensor, confidences: Tensor) -> None:
        """Store this epoch's confidences; a sample trained twice in one epoch keeps its last.

        Args:
            epoch: The epoch's number, from 0.
            sample_ids: int64 ``[batch]``.
            confidences: Of the sample's answer in the truth, ``[batch]``.
        """
        column = epoch % self.values.shape[1]
        self.values[sample_ids.cpu(), column] = confidences.detach().float().cpu()
