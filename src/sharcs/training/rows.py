"""The training rows: their numbers, which are the stable ids of samples, and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Callable

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
