"""From a table to checked texts and labels."""

from __future__ import annotations

import hashlib
import re
import reprlib
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from sharcs.data.columns import find_column, is_string, json_string
from sharcs.data.dialects import USUAL, Dialect
from sharcs.data.jsonlines import as_strings, is_json
from sharcs.data.labels import labels_in, problem_type_of_columns, read_targets
from sharcs.data.sampling import sampled_rows
from sharcs.data.tables import open_table, read_rows
from sharcs.errors import InputError
from sharcs_runtime.scores import MULTI_LABEL, SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharcs_runtime.tokens import Text

PAIR_COLUMN = "text_pair"


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns to use.

    Attributes:
        text: The texts to classify.
        text_pair: The second texts, for tasks on pairs of texts. None stands for the column ``text_pair`` if
            the table has one, and for no second texts if it has not.
        label: The class of each row, its list of labels, or its number; or several columns, one a label, that say
            which rows have it.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str | tuple[str, ...] = "label"

    def __post_init__(self) -> None:
        """Take lists, as JSON has them, too."""
        if isinstance(self.label, list):
            object.__setattr__(self, "label", tuple(self.label))

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns with labels."""
        return (self.label,) if isinstance(self.label, str) else self.label


@dataclass(frozen=True, slots=True)
class TextData:
    """Checked texts, with the table that they come from.

    Attributes:
        table: The source's rows with all of its columns, row for row those of ``texts``.
        texts: The texts; none is empty.
        pairs: The second texts, or None if the task has one text per row.
        labels: The classes as strings, or None if they are not known. A set of labels is the JSON list of their
            names, sorted, and a number is written as Python does.
        source: Where the table is from, for messages.
        label_type: ``integer`` or ``boolean``, where the labels were such; None for text.
        problem_type: What the labels are, as Hugging Face configurations name it.
        weights: What each row counts in the full network's training, above 0; None if all count alike.
        rows: The 1-based row of each text in the source if only some rows were taken, else None.
    """

    table: pa.Table
    texts: list[str]
    pairs: list[str] | None
    labels: list[str] | None
    source: str
    rows: list[int] | None = None
    label_type: str | None = None
    problem_type: str = SINGLE_LABEL
    weights: list[float] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    @property
    def inputs(self) -> list[Text]:
        """The texts, or the pairs of them, as engines take them."""
        return list(self.texts) if self.pairs is None else list(zip(self.texts, self.pairs, strict=True))

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
    problem_type: str | None = None,
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
        problem_type: What the labels have to be; by default classes, or sets of labels where a row has a list or
            several columns are named.

    Returns:
        The texts. Labels that are integers, booleans or whole floats are given as strings; class numbers of
        ``datasets`` as the names of the classes.

    Raises:
        InputError: If the source cannot be read, a column is missing or of the wrong type, or a row has no
            text or no label.
    """
    table = read_rows(open_table(source, dialect))
    texts = checked_texts(table, columns.text, "text", source)
    pair = pair_column(table.schema, columns)
    pairs = None if pair is None else checked_texts(table, pair, "text pair", source)
    return data_of(
        table,
        texts,
        pairs,
        columns,
        source,
        labelled=labelled,
        max_samples=max_samples,
        seed=seed,
        problem_type=problem_type,
    )


def data_of(
    table: pa.Table,
    texts: list[str],
    pairs: list[str] | None,
    columns: Columns,
    source: str,
    *,
    labelled: bool = True,
    max_samples: int | None = None,
    seed: int = 0,
    problem_type: str | None = None,
) -> TextData:
    """Read the labels of texts that are read, and take some of them; see :func:`load_texts`."""
    if max_samples is not None and max_samples < 1:
        raise InputError(f"max_samples is {max_samples}; it must be at least 1")
    problem_type = problem_type or problem_type_of_columns(table, columns.labels)
    labels: list[str] | None = None
    label_type = None
    try:
        labels, label_type = read_targets(table, columns.labels, source, problem_type)
    except InputError:
        if labelled:
            raise
    data = TextData(as_strings(table), texts, pairs, labels, source, None, label_type, problem_type)
    return data if max_samples is None or max_samples >= len(data) else _sample(data, max_samples, seed)


def label_names(data: TextData) -> list[str]:
    """List the classes, or the labels, of labelled texts.

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
        what = "class" if data.problem_type == SINGLE_LABEL else "set of labels"
        raise InputError(
            f"{data.source}: one {what} only ({reprlib.repr(data.labels[0])} in all {len(data)} rows); "
            "give rows of at least two classes"
        )
    if data.problem_type == MULTI_LABEL:
        names = {name for labels in names for name in labels_in(labels)}
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
    return PAIR_COLUMN if PAIR_COLUMN in schema.names and PAIR_COLUMN not in (columns.text, *columns.labels) else None


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
            text = texts[index] = json_string(text, kind, name, where)
        if text is None or not text.strip():
            state = "missing" if text is None else "empty"
            raise InputError(f"{where}: the {kind} is {state} (column {name!r}); fill it in or drop the row")
    return texts  # type: ignore[return-value]  # none is missing


def _sample(data: TextData, count: int, seed: int) -> TextData:
    chosen = sampled_rows(data.labels or [""] * len(data), count, seed)
    labels = None if data.labels is None else [data.labels[i] for i in chosen]
    without_row = sorted(set(data.labels or ()) - set(labels or ()))
    if without_row:
        names = ", ".join(map(reprlib.repr, without_row[:5]))
        more = f" and {len(without_row) - 5} more" if len(without_row) > 5 else ""
        warnings.warn(f"{data.source}: no row of the classes {names}{more} is among the {count} taken", stacklevel=3)
    return take_rows(data, chosen)


def take_rows(data: TextData, rows: Sequence[int]) -> TextData:
    """Select rows, which keep their numbers in the source."""
    return replace(
        data,
        table=data.table.take(list(rows)),
        texts=[data.texts[row] for row in rows],
        pairs=None if data.pairs is None else [data.pairs[row] for row in rows],
        labels=None if data.labels is None else [data.labels[row] for row in rows],
        rows=[data.row(row) for row in rows],
        weights=None if data.weights is None else [data.weights[row] for row in rows],
    )
