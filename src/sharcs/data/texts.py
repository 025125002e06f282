"""From a table to checked texts and labels."""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
import warnings
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sharcs.data.dialects import USUAL, Dialect
from sharcs.data.jsonlines import MISSING, as_strings, is_json, string_of
from sharcs.data.sampling import sampled_rows
from sharcs.data.tables import open_table, read_rows
from sharcs.errors import InputError

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


@dataclass(frozen=True, slots=True)
class TextData:
    """Checked texts, with the table that they come from.

    Attributes:
        table: The source's rows with all of its columns, row for row those of ``texts``.
        texts: The texts; none is empty.
        pairs: The second texts, or None if the task has one text per row.
        labels: The classes as strings, or None if they are not known.
        source: Where the table is from, for messages.
        rows: The 1-based row of each text in the source if only some rows were taken, else None.
    """

    table: pa.Table
    texts: list[str]
    pairs: list[str] | None
    labels: list[str] | None
    source: str
    rows: list[int] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def row(self, index: int) -> int:
        """Return the 1-based row in the source of the text at ``index``."""
        return index + 1 if self.rows is None else self.rows[index]


def load_texts(
    source: str,
    columns: Columns = Columns(),
    *,
    labelled: bool = True,
    max_samples: int | None = None,
    seed: int = 0,
    dialect: Dialect = USUAL,
) -> TextData:
    """Read texts and labels, and check every row.

    Args:
        source: What ``read_table`` takes: a file, a built-in data set or one of the hub.
        columns: The names of the columns to use.
        labelled: Whether every row must have a label. If not, labels are taken if all rows have a valid one.
        max_samples: Take at most this many rows, at random, in their order in the source: the same share of
            each class, and at least one row of it where there are as many rows as classes. Classes that get none are
            named in a warning.
        seed: The seed of that random choice.
        dialect: How a text file is written.

    Returns:
        The texts. Labels that are integers, booleans or whole floats are given as strings; class numbers of
        ``datasets`` as the names of the classes.

    Raises:
        InputError: If the source cannot be read, a column is missing or of the wrong type, or a row has no
            text or no label.
    """
    if max_samples is not None and max_samples < 1:
        raise InputError(f"max_samples is {max_samples}; it must be at least 1")
    table = read_rows(open_table(source, dialect))
    texts = checked_texts(table, columns.text, "text", source)
    pair = pair_column(table.schema, columns)
    pairs = None if pair is None else checked_texts(table, pair, "text pair", source)
    labels: list[str] | None = None
    try:
        labels = _labels(table, columns.label, source)
    except InputError:
        if labelled:
            raise
    data = TextData(as_strings(table), texts, pairs, labels, source)
    return data if max_samples is None or max_samples >= len(data) else _sample(data, max_samples, seed)


def label_names(data: TextData) -> list[str]:
    """List the classes of labelled texts.

    Args:
        data: Texts with labels.

    Returns:
        The labels, each once, sorted; in the order of numbers if all of them are integers.

    Raises:
        InputError: If there are no labels, or all rows have the same.
    """
    if data.labels is None:
        raise InputError(f"{data.source}: the rows have no labels; name the column that has them with `label_column`")
    names = set(data.labels)
    if len(names) < 2:
        raise InputError(
            f"{data.source}: one class only ({reprlib.repr(data.labels[0])} in all {len(data)} rows); "
            "give rows of at least two classes"
        )
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def fingerprint(*columns: list[str] | None) -> str:
    """SHA-256 of columns of strings, one after the other; a missing one has no rows."""
    digest = hashlib.sha256()
    for values in columns:
        for value in values or []:
            digest.update(value.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def pair_column(schema: pa.Schema, columns: Columns) -> str | None:
    """Name the column of second texts: the one that was asked for, else ``text_pair`` if the table has it."""
    if columns.text_pair is not None:
        return columns.text_pair
    return PAIR_COLUMN if PAIR_COLUMN in schema.names and PAIR_COLUMN not in (columns.text, columns.label) else None


def is_string(kind: pa.DataType) -> bool:
    """Tell whether a column holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


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


def checked_texts(table: pa.Table, name: str, kind: str, source: str, rows_before: int = 0) -> list[str]:
    """Take a column of texts, none of them empty.

    Args:
        table: All rows of a source, or some in a row.
        name: The column's name.
        kind: ``text`` or ``text pair``.
        source: Where the table is from, for messages.
        rows_before: Rows of the source before the table's first, for messages.

    Raises:
        InputError: If there is no such column, it holds no texts, or a row has none.
    """
    column = find_column(table, name, kind, source)
    if not is_string(column.type) and not pa.types.is_null(column.type):
        raise InputError(f"{source}: the {kind} column {name!r} holds {column.type}, not text; convert it to strings")
    texts: list[str | None] = column.to_pylist()
    json_texts = is_json(table.schema.field(name))
    for index, text in enumerate(texts):
        where = f"{source}: row {rows_before + index + 1}"
        if json_texts:
            text = texts[index] = _json_string(text, kind, name, where)
        if text is None or not text.strip():
            state = "missing" if text is None else "empty"
            raise InputError(f"{where}: the {kind} is {state} (column {name!r}); fill it in or drop the row")
    return texts  # type: ignore[return-value]  # none is missing


def _json_string(value: str | None, kind: str, name: str, where: str) -> str | None:
    """Decode a JSON text that has to be a string or missing."""
    text = None if value in MISSING else string_of(value)
    if text is None and value not in MISSING:
        raise InputError(
            f"{where}: the {kind} {reprlib.repr(value)} is no string (column {name!r}); correct it or drop the row"
        )
    return text


def _labels(table: pa.Table, name: str, source: str) -> list[str]:
    column = find_column(table, name, "label", source)
    kind = column.type
    json_texts = is_json(table.schema.field(name))
    classes = _class_names(table, name) if pa.types.is_integer(kind) else None
    plain = (pa.types.is_integer, is_string, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    if not any(is_so(kind) for is_so in plain):
        raise InputError(
            f"{source}: the label column {name!r} holds {kind}; labels must be strings, integers or booleans"
        )
    values: list[Any] = column.to_pylist()
    if classes is not None:
        # -1 is how `datasets` says that a label is withheld.
        values = [None if v is None or not 0 <= v < len(classes) else classes[v] for v in values]
    labels = []
    for row, value in enumerate(values, start=1):
        where = f"{source}: row {row}"
        label = _label(_json_label(value, name, where) if json_texts else value, name, where)
        if not label.strip():
            raise InputError(f"{where}: the label is missing (column {name!r}); fill it in or drop the row")
        labels.append(label)
    return labels


def _label(value: Any, name: str, where: str) -> str:
    """Write a label as a string; the empty one stands for a missing label."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float):
        return str(value)
    # Whole numbers become floats in tools that have no missing integers.
    if not value.is_integer():
        raise InputError(
            f"{where}: the label {value} (column {name!r}) is not a class; regression is not supported here"
        )
    return str(int(value))


def _json_label(value: str | None, name: str, where: str) -> str | float | bool | None:
    """Decode the JSON text of a label; integers of any length stay their digits."""
    if value is None or value in MISSING:
        return None
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch("-?[0-9]+", value):
        return value
    if value[0] in '"[{':
        return _json_string(value, "label", name, where)
    return float(value)


def _class_names(table: pa.Table, name: str) -> list[str] | None:
    """Return the classes' names that `datasets` left in the schema's metadata, if it did."""
    schema = pa.schema([table.schema.field(name)], metadata=table.schema.metadata)
    if b"huggingface" not in (schema.metadata or {}):
        return None
    import datasets  # here, because it takes seconds to import, and most tables don't need it

    feature = datasets.Features.from_arrow_schema(schema)[name]
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _sample(data: TextData, count: int, seed: int) -> TextData:
    chosen = sampled_rows(data.labels or [""] * len(data), count, seed)
    labels = None if data.labels is None else [data.labels[i] for i in chosen]
    without_row = sorted(set(data.labels or ()) - set(labels or ()))
    if without_row:
        names = ", ".join(map(reprlib.repr, without_row[:5]))
        more = f" and {len(without_row) - 5} more" if len(without_row) > 5 else ""
        warnings.warn(f"{data.source}: no row of the classes {names}{more} is among the {count} taken", stacklevel=3)
    return TextData(
        table=data.table.take(chosen),
        texts=[data.texts[i] for i in chosen],
        pairs=None if data.pairs is None else [data.pairs[i] for i in chosen],
        labels=labels,
        source=data.source,
        rows=[i + 1 for i in chosen],
    )
