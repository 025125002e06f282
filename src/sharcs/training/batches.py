"""The training rows: their numbers, which are the stable ids of samples, their fingerprint, and planned batches.

A planned batch is of one width: groups repeated to the largest, widths in turn (paper, section 3.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from sharcs.data.images.pixels import ImageRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROWS_AT_ONCE = 1000


class NumberedRows(Dataset[tuple[int, Any]]):
    """A data set whose rows come with their number: ``(number, row)``.

    Args:
        rows: A map-style data set.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        """Return a row with its number."""
        return index, dict(self.rows[index])


def collate_numbered(collate: Callable[[list[Any]], Any]) -> Callable[[list[tuple[int, Any]]], dict[str, Any]]:
    """Make a collator of rows one of :class:`NumberedRows`, whose batches hold ``sample_id``: int64 ``[batch]``."""

    def with_ids(numbered: list[tuple[int, Any]]) -> dict[str, Any]:
        numbers, rows = zip(*numbered, strict=True)
        return {**collate(list(rows)), "sample_id": torch.tensor(numbers)}

    return with_ids


def fingerprint(rows: Any) -> str:
    """Hash the rows in their order, so that a resumed training notices others.

    Rows that read differently each time, as with random crops, count by their labels alone.

    Args:
        rows: A map-style data set.

    Returns:
        A SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256(str(len(rows)).encode())
    if isinstance(rows, ImageRows):
        rows = rows.stored()
    if hasattr(rows, "with_format"):
        _add_tables(digest, rows)
        return digest.hexdigest()
    varies = _hash_of(rows[0]) != _hash_of(rows[0])
    for index in range(len(rows)):
        row = rows[index]
        _add(digest, {name: value for name, value in row.items() if "label" in name} if varies else row)
    return digest.hexdigest()


def _add_tables(digest: Any, rows: Any) -> None:
    """Add what a data set of ``datasets`` stores, as Arrow: before transforms, and without decoding images."""
    import pyarrow as pa  # who has such a data set has loaded it

    for table in rows.with_format("arrow").iter(ROWS_AT_ONCE):
        sink = pa.BufferOutputStream()
        plain = table.replace_schema_metadata(None).combine_chunks()
        with pa.ipc.new_stream(sink, plain.schema) as stream:
            stream.write_table(plain)
        digest.update(sink.getvalue())


def _hash_of(row: Any) -> str:
    digest = hashlib.sha256()
    _add(digest, row)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add a value of a row, with its type and shape."""
    if isinstance(value, Mapping):
        for name in sorted(value):
            digest.update(f"{name}:".encode())
            _add(digest, value[name])
    elif isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    else:
        digest.update(repr(value).encode())


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
