"""The classes of rows, and the type that they had in the table."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sharcs.data.columns import find_column, is_string, json_string
from sharcs.data.jsonlines import MISSING, is_json
from sharcs.errors import InputError
from sharcs_runtime.answers import BOOLEAN, INTEGER, has_room, typed_labels
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Of a column that says which rows have a label.
YES, NO = ("1", "true", "yes"), ("0", "false", "no")
LONG = 20  # letters of a 64-bit integer, at most


def problem_type_of_columns(table: pa.Table, names: Sequence[str]) -> str:
    """Tell classes from sets of labels, by the columns: several, or one of lists, hold sets."""
    if len(names) > 1:
        return MULTI_LABEL
    if names[0] not in table.column_names:
        return SINGLE_LABEL  # which is refused where it is read
    column = table.column(names[0])
    if is_json(table.schema.field(names[0])):
        given = (value for value in column.to_pylist() if value not in MISSING)
        return MULTI_LABEL if next(given, "").startswith("[") else SINGLE_LABEL
    return MULTI_LABEL if _is_list(column.type) else SINGLE_LABEL


def read_targets(
    table: pa.Table, names: Sequence[str], source: str, problem_type: str, rows_before: int = 0
) -> tuple[list[str], str | None]:
    """Read what rows are to be answered with; see :class:`sharcs.data.texts.TextData` for how it is written.

    Args:
        table: All rows of a source, or some in a row.
        names: The column, or a column a label.
        source: Where the table is from, for messages.
        problem_type: As in Hugging Face configurations.
        rows_before: Rows of the source before the table's first, for messages.

    Returns:
        One a row, and the type of classes and labels; see :func:`read_labels`.

    Raises:
        InputError: If a column is missing, or holds or lacks what it must not.
    """
    if problem_type == MULTI_LABEL:
        read = _read_sets if len(names) == 1 else _read_flags
        return read(table, names, source, rows_before)
    if len(names) > 1:
        raise InputError(f"{source}: `label_column` is given {len(names)} times, for sets of labels; give it once")
    if problem_type == REGRESSION:
        return _read_numbers(table, names[0], source, rows_before), None
    return read_labels(table, names[0], source, rows_before)


def set_of(names: Iterable[str]) -> str:
    """Write a set of labels."""
    return json.dumps(sorted(set(names)), ensure_ascii=False)


def labels_in(written: str) -> list[str]:
    """Read a set of labels that :func:`set_of` wrote."""
    names: list[str] = json.loads(written)
    return names


def read_labels(table: pa.Table, name: str, source: str, rows_before: int = 0) -> tuple[list[str], str | None]:
    """Read a column of labels.

    Args:
        table: All rows of a source, or some in a row.
        name: The column's name.
        source: Where the table is from, for messages.
        rows_before: Rows of the source before the table's first, for messages.

    Returns:
        The class of each row as a string, and the classes' type: ``integer``, ``boolean``, or None for text.

    Raises:
        InputError: If there is no such column, it holds no classes, or a row has none.
    """
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
    labels, kinds = [], set()
    for row, value in enumerate(values, start=rows_before + 1):
        where = f"{source}: row {row}"
        value = _json_label(value, name, where) if json_texts else value
        label = _label(value, name, where)
        if not label.strip():
            raise InputError(f"{where}: the label is missing (column {name!r}); fill it in or drop the row")
        labels.append(label)
        kinds.add(type(value))
    return labels, _type_of(kinds)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _read_sets(table: pa.Table, names: Sequence[str], source: str, rows_before: int) -> tuple[list[str], str | None]:
    """Read a column of lists."""
    name = names[0]
    column = find_column(table, name, "label", source)
    json_texts = is_json(table.schema.field(name))
    if not json_texts and not _is_list(column.type):
        raise InputError(
            f"{source}: the label column {name!r} holds {column.type}, and not lists of labels; name a column of "
            "lists, or a column a label"
        )
    found, kinds = [], set()
    for row, value in enumerate(column.to_pylist(), start=rows_before + 1):
        where = f"{source}: row {row}"
        if json_texts and value not in MISSING:
            value = json.loads(value)
        if not isinstance(value, list):
            raise InputError(f"{where}: the labels {value!r} (column {name!r}) are no list; write [] for none")
        labels = [_label(label, name, where) if isinstance(label, str | int | float) else "" for label in value]
        if not all(label.strip() for label in labels):
            raise InputError(f"{where}: a label in the list {value!r} (column {name!r}) is no name; correct it")
        found.append(set_of(labels))
        kinds |= {type(label) for label in value}
    return found, _type_of(kinds)


def _read_flags(table: pa.Table, names: Sequence[str], source: str, rows_before: int) -> tuple[list[str], str | None]:
    """Read a column a label, that says which rows have it."""
    columns = [find_column(table, name, "label", source).to_pylist() for name in names]
    found = []
    for row, values in enumerate(zip(*columns, strict=True), start=rows_before + 1):
        labels = []
        for name, value in zip(names, values, strict=True):
            said = str(value).strip().strip('"').lower().removesuffix(".0")
            if said not in (*YES, *NO):
                raise InputError(
                    f"{source}: row {row}: {value!r} (column {name!r}) does not say whether the row has the label; "
                    "write 1 or 0"
                )
            if said in YES:
                labels.append(name)
        found.append(set_of(labels))
    return found, None


def _read_numbers(table: pa.Table, name: str, source: str, rows_before: int) -> list[str]:
    """Read a column of numbers."""
    column = find_column(table, name, "label", source)
    found = []
    for row, value in enumerate(column.to_pylist(), start=rows_before + 1):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"{source}: row {row}: the label {value!r} (column {name!r}) is no finite number; correct it or drop "
                "the row"
            )
        found.append(repr(number))
    return found


def label_values(names: list[str], label_type: str | None) -> tuple[list[Any], pa.DataType]:
    """Turn the names of classes into values of the type that the training's labels had, and name Arrow's type.

    Args:
        names: By index.
        label_type: ``integer``, ``boolean``, or None for text, which they stay, too, where others than such are
            among them.
    """
    values = typed_labels(names, label_type)
    return values, pa.array(values, None if values else pa.string()).type


def _type_of(kinds: set[type]) -> str | None:
    """Name the type of labels whose values are of some of Python's."""
    if kinds == {bool}:
        return BOOLEAN
    return INTEGER if kinds <= {int, float} else None  # whole floats, where integers may be missing


def _label(value: Any, name: str, where: str) -> str:
    """Write a label as a string; the empty one stands for a missing label."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float):
        return str(value)
    # Whole numbers become floats in tools that have no missing integers.
    if not value.is_integer():
        raise InputError(
            f"{where}: the label {value} (column {name!r}) is not a class; give `regression` to learn numbers"
        )
    return str(int(value))


def _json_label(value: str | None, name: str, where: str) -> str | float | bool | None:
    """Decode the JSON text of a label."""
    if value is None or value in MISSING:
        return None
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch("-?[0-9]+", value):
        # A long one stays its digits: Python refuses to read some, and no table has a type for them.
        return int(value) if len(value) <= LONG and has_room(int(value)) else value
    if value[0] in '"[{':
        return json_string(value, "label", name, where)
    return float(value)


def _class_names(table: pa.Table, name: str) -> list[str] | None:
    """Return the classes' names that `datasets` left in the schema's metadata, if it did."""
    schema = pa.schema([table.schema.field(name)], metadata=table.schema.metadata)
    if b"huggingface" not in (schema.metadata or {}):
        return None
    import datasets  # here, because it takes seconds to import, and most tables don't need it

    feature = datasets.Features.from_arrow_schema(schema)[name]
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
