"""Columns of a table, by their names, and the strings in them."""

from __future__ import annotations

import reprlib

import pyarrow as pa

from sharcs.data.jsonlines import MISSING, string_of
from sharcs.errors import InputError


def find_column(table: pa.Table, name: str, kind: str, source: str) -> pa.ChunkedArray:
    """Take a column, categories decoded to their values.

    Args:
        table: All rows of a source, or some in a row.
        name: The column's name.
        kind: What it is for: ``text``, ``text pair`` or ``label``.
        source: Where the table is from, for messages.

    Raises:
        InputError: If there is no such column.
    """
    columns = table.column_names
    if name not in columns:
        names = ", ".join(map(repr, columns[:20]))
        more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
        argument = f"`{kind.replace(' ', '_')}_column`"
        raise InputError(
            f"{source}: no column {name!r}; it has {names}{more}; name the {kind} column with {argument}"
        )
    column = table.column(name)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_string(kind: pa.DataType) -> bool:
    """Tell whether a column holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def json_string(value: str | None, kind: str, name: str, where: str) -> str | None:
    """Decode a JSON text that has to be a string or missing.

    Raises:
        InputError: If it is another value.
    """
    text = None if value in MISSING else string_of(value)
    if text is None and value not in MISSING:
        raise InputError(
            f"{where}: the {kind} {reprlib.repr(value)} is no string (column {name!r}); correct it or drop the row"
        )
    return text
