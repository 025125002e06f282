"""The classes of rows, and the type that they had in the table."""

from __future__ import annotations

import math
import re
from typing import Any

import pyarrow as pa

from sharcs.data.columns import find_column, is_string, json_string
from sharcs.data.jsonlines import MISSING, is_json
from sharcs.errors import InputError
from sharcs_runtime.answers import BOOLEAN, INTEGER, has_room, typed_labels

LONG = 20  # letters of a 64-bit integer, at most


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
            f"{where}: the label {value} (column {name!r}) is not a class; regression is not supported here"
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
