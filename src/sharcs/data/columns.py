"""Columns of a table by their names, and the check of the texts in them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from sharcs.errors import InputError

__all__ = ["PAIR_COLUMN", "Columns", "check_column", "checked_texts", "find_column", "is_string", "pair_column"]

PAIR_COLUMN = "text_pair"


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns to use.

    Attributes:
        text: The texts to classify.
        text_pair: The second texts, for tasks on pairs of texts. None stands for the column ``text_pair`` if
            the table has one, and for no second texts if it has not.
        label: The class of each row.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"


def pair_column(schema: pa.Schema, columns: Columns) -> str | None:
    """Name the column of second texts: the one that was asked for, else ``text_pair`` if the table has it."""
    if columns.text_pair is not None:
        return columns.text_pair
    return PAIR_COLUMN if PAIR_COLUMN in schema.names and PAIR_COLUMN not in (columns.text, columns.label) else None


def is_string(kind: pa.DataType) -> bool:
    """Tell whether a column holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def check_column(schema: pa.Schema, name: str, kind: str, source: str) -> None:
    """Check that a table has a column.

    Args:
        schema: The table's.
        name: The column's name.
        kind: What it is for: ``text``, ``text pair`` or ``label``.
        source: Where the table is from, for messages.

    Raises:
        InputError: If it has not.
    """
    if name not in schema.names:
        names = ", ".join(repr(column) for column in schema.names[:20])
        more = f" and {len(schema.names) - 20} more" if len(schema.names) > 20 else ""
        argument = f"`{kind.replace(' ', '_')}_column`"
        raise InputError(
            f"{source}: no column {name!r}; it has {names}{more}; name the {kind} column with {argument}"
        )


def find_column(table: pa.Table | pa.RecordBatch, name: str, kind: str, source: str) -> pa.Array | pa.ChunkedArray:
    """Take a column, categories decoded to their values; arguments as for :func:`check_column`."""
    check_column(table.schema, name, kind, source)
    column = table.column(name)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def checked_texts(
    table: pa.Table | pa.RecordBatch, name: str, kind: str, source: str, rows_before: int = 0
) -> list[str]:
    """Take a column of texts and check every one.

    Args:
        table: All rows of a source, or some in a row.
        name: The column's name.
        kind: ``text`` or ``text pair``.
        source: Where the table is from, for messages.
        rows_before: Rows of the source before the table's first, for messages.

    Returns:
        The texts; none is empty.

    Raises:
        InputError: If there is no such column, it holds no texts, or a row has none.
    """
    column = find_column(table, name, kind, source)
    if not is_string(column.type) and not pa.types.is_null(column.type):
        raise InputError(f"{source}: the {kind} column {name!r} holds {column.type}, not text; convert it to strings")
    texts: list[str] = column.to_pylist()
    for row, text in enumerate(texts, start=rows_before + 1):
        if text is None or not text.strip():
            state = "missing" if text is None else "empty"
            raise InputError(
                f"{source}: row {row}: the {kind} is {state} (column {name!r}); fill it in or drop the row"
            )
    return texts
