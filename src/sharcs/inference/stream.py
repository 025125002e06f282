"""The texts of a table of any size, a window at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from sharcs.data.dialects import USUAL, Dialect
from sharcs.data.files.textfiles import CHUNK_ROWS
from sharcs.data.tables import TableStream, open_table
from sharcs.data.texts import Columns, checked_texts, pair_column
from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharcs_runtime.tokens import Text


@dataclass(frozen=True, slots=True)
class TextStream:
    """The texts of a table of any size.

    Attributes:
        table: All columns.
        text: The column with the texts.
        pair: The column with the second texts, or None.
    """

    table: TableStream
    text: str
    pair: str | None

    def windows(self, size: int) -> Iterator[tuple[pa.Table, list[Text]]]:
        """Read all rows from the beginning: ``size`` of them at a time, and their texts or pairs of texts.

        Raises:
            InputError: If a row is malformed or has no text.
        """
        count = 0
        for rows in windows_of(self.table, size):
            texts = self.texts_of(rows, count)
            count += rows.num_rows
            yield rows, texts

    def texts_of(self, rows: pa.Table, before: int) -> list[Text]:
        """Take the texts, or pairs of texts, of some rows.

        Args:
            rows: Some rows of the table.
            before: How many rows are before them, for messages.

        Raises:
            InputError: If a row has no text.
        """
        source = self.table.source
        texts: list[Text] = list(checked_texts(rows, self.text, "text", source, before))
        if self.pair is None:
            return texts
        seconds = checked_texts(rows, self.pair, "text pair", source, before)
        return list(zip(texts, seconds, strict=True))  # type: ignore[arg-type]

    def identity(self, texts: list[Text]) -> object:
        """Name the texts of a window, to tell them from others."""
        return texts

    def check_window(self, texts: list[Text], before: int) -> None:
        """Check what reading the texts of a window does not, with so many rows before it."""

    def check(self) -> int:
        """Read all rows and return their number, so that a wrong one is found before the work on the others.

        Raises:
            InputError: If a row is malformed or has no text, or there is none.
        """
        count = 0
        for _, texts in self.windows(CHUNK_ROWS):
            self.check_window(texts, count)
            count += len(texts)
        if not count:
            raise InputError(f"{self.table.source}: the table has no rows")
        return count


def windows_of(table: TableStream, size: int) -> Iterator[pa.Table]:
    """Cut a table into parts of ``size`` rows, the last one shorter, whatever its batches are."""
    waiting = table.schema.empty_table()
    for batch in table.batches():
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch], table.schema)])
        while waiting.num_rows >= size:
            yield waiting.slice(0, size)
            waiting = waiting.slice(size)
    if waiting.num_rows:
        yield waiting


def open_texts(source: str, columns: Columns, dialect: Dialect = USUAL) -> TextStream:
    """Open a table and find its texts.

    Args:
        source: What ``read_table`` takes: a file, a built-in data set or one of the hub.
        columns: The names of the columns to use.
        dialect: How a text file is written.

    Raises:
        InputError: If the source can't be read, or a column is missing or holds no texts.
    """
    table = open_table(source, dialect)
    stream = TextStream(table, columns.text, pair_column(table.schema, columns))
    checked_texts(table.schema.empty_table(), stream.text, "text", source)
    if stream.pair is not None:
        checked_texts(table.schema.empty_table(), stream.pair, "text pair", source)
    return stream
