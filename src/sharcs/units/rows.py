"""The rows of a unit, and their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from sharcs.data.tables import TableStream
from sharcs.errors import InputError
from sharcs.inference.stream import windows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharcs.inference.stream import TextStream
    from sharcs_runtime.tokens import Text


class Rows:
    """Reads parts of a table; one behind the other, the file is read once.

    Args:
        table: The table.
    """

    def __init__(self, table: TableStream) -> None:
        self._table = table
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None
        self._position: int | None = None  # of the next row

    def batches(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Read rows, counted from 0.

        Raises:
            InputError: If there are no such rows, or one is malformed.
        """
        position = self._go_to(start)
        while position < stop:
            batch = next(self._batches, None) if self._rest is None else self._rest
            self._rest = None
            if batch is None:
                raise InputError(
                    f"{self._table.source}: has fewer rows than when the work began; name another output"
                )
            end = position + batch.num_rows
            if end > stop:
                self._rest = batch.slice(stop - position)
            self._position = min(end, stop)
            if end > start:
                begin = max(0, start - position)
                yield batch.slice(begin, self._position - position - begin)
            position = self._position

    def _go_to(self, start: int) -> int:
        """Begin before some row, as near as the file allows, and say where."""
        parquet = self._table.parquet
        if self._position is None or self._position > start or (parquet is not None and self._position < start):
            self._batches = self._table.batches() if parquet is None else parquet.batches(start)
            self._rest = None
            self._position = 0 if parquet is None else start
        return self._position


class Window(NamedTuple):
    """Some rows of a unit that are answered together.

    Attributes:
        rows: The rows that are written.
        texts: Their texts, or those of the rows that have one.
        places: Of which of the rows each text is; None where all have one.
        asked: How many rows there were.
        without: How many of these have no text.
    """

    rows: pa.Table
    texts: list[Text]
    places: list[int] | None
    asked: int
    without: int


def unit_windows(stream: TextStream, rows: Rows, start: int, stop: int, size: int, on_error: str) -> Iterator[Window]:
    """Read the rows of a unit, in windows of ``size``.

    Args:
        stream: The table, with the columns of texts.
        rows: Reads it.
        start: The first row, counted from 0.
        stop: The row behind the last one.
        size: Rows of a window; the last one may have fewer.
        on_error: What to do about a row without a text: ``stop``, ``keep`` it without an answer, or ``skip`` it.

    Raises:
        InputError: If a row has no text, and ``on_error`` is ``stop``; or one is malformed.
    """
    part = TableStream(stream.table.source, stream.table.schema, lambda: rows.batches(start, stop))
    before = start
    for window in windows_of(part, size):
        yield _window(stream, window, before, on_error)
        before += window.num_rows


def _window(stream: TextStream, rows: pa.Table, before: int, on_error: str) -> Window:
    try:
        return Window(rows, stream.texts_of(rows, before), None, rows.num_rows, 0)
    except InputError:
        if on_error == "stop":
            raise
    texts: list[Text] = []
    places: list[int] = []
    for index in range(rows.num_rows):
        try:
            texts += stream.texts_of(rows.slice(index, 1), before + index)
            places.append(index)
        except InputError:
            continue
    without = rows.num_rows - len(places)
    if on_error == "skip":
        return Window(rows.take(pa.array(places, pa.int64())), texts, None, rows.num_rows, without)
    return Window(rows, texts, places, rows.num_rows, without)
