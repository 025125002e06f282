"""Batches of one width each: groups repeated to the largest, widths in turn (paper, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor


def single_width_batches(
    width_index: Tensor,
    batch_size: int,
    generator: torch.Generator,
    lengths: Sequence[int] | None = None,
) -> list[list[int]]:
    """Arrange an epoch's batches.

    Every group of samples with one width is shuffled and repeated, shuffled anew each time, up to the size of the
    largest group, so that each group has the same number of batches whatever its own size; an empty group has none.
    The widths take turns, in a new order each turn.

    Args:
        width_index: The width of each sample this epoch, int64 ``[samples]``.
        batch_size: Samples a batch; the last of a group may be smaller.
        generator: Source of randomness, on the CPU.
        lengths: Tokens of each sample; if given, samples of like length share a batch, which saves padding.

    Returns:
        Sample numbers of each batch.
    """
    groups = [torch.nonzero(width_index == index).squeeze(1) for index in width_index.unique().tolist()]
    largest = max(len(group) for group in groups)
    batches = [_batches(group, largest, batch_size, generator, lengths) for group in groups]
    ordered = []
    for turn in zip(*batches, strict=True):
        for group_number in torch.randperm(len(groups), generator=generator).tolist():
            ordered.append(turn[group_number])
    return ordered


def _batches(
    group: Tensor, size: int, batch_size: int, generator: torch.Generator, lengths: Sequence[int] | None
) -> list[list[int]]:
    """Repeat a group up to ``size`` samples and cut it into batches."""
    samples: list[int] = []
    while len(samples) < size:
        shuffled = group[torch.randperm(len(group), generator=generator)][: size - len(samples)].tolist()
        if lengths is not None:
            # Each round by itself: over all rounds, the copies of a sample would fall into one batch.
            of_each = [lengths[sample] for sample in shuffled]
            order = get_length_grouped_indices(of_each, batch_size, generator=generator)
            shuffled = [shuffled[position] for position in order]
        samples += shuffled
    batches = [samples[start : start + batch_size] for start in range(0, size, batch_size)]
    # Grouping by length leaves them ordered by it, which is no order to train in.
    return [batches[position] for position in torch.randperm(len(batches), generator=generator).tolist()]


class PlannedBatches(Sampler[list[int]]):
    """Hands the batches that were planned for an epoch to the data loader, which tells it the epoch.

    Args:
        plan: Plans an epoch, by its number from 0: sample numbers of each batch.
        batch_size: Samples a batch, which accelerate asks for.
    """

    def __init__(self, plan: Callable[[int], list[list[int]]], batch_size: int) -> None:
        self.plan = plan
        self.batch_size = batch_size
        self.drop_last = False
        self.batches = plan(0)

    def set_epoch(self, epoch: int) -> None:
        """Plan an epoch."""
        self.batches = self.plan(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over the planned batches."""
        return iter(self.batches)

    def __len__(self) -> int:
        """Count the planned batches."""
        return len(self.batches)
