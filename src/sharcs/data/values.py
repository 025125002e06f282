"""Values of Arrow columns as Python's, those that Python doesn't have as text."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable

REFUSED = (OverflowError, ValueError, pa.ArrowException)


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Convert a column's values; dates after 9999, times in unknown zones and the like become text."""
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except REFUSED:
        return [_value(scalar) for scalar in column]


def text_of(value: Any) -> str:
    """Write a value of a type that CSV and JSON lack: bytes in base64, others as Python does."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except REFUSED:
        pass
    kind = scalar.type
    if pa.types.is_struct(kind):
        return {field.name: _value(scalar[field.name]) for field in kind}
    if pa.types.is_nested(kind):
        return _values(scalar.values)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return _text(scalar.cast(pa.timestamp(kind.unit))) + "+00:00"
    return _text(scalar)


def _values(scalars: Iterable[Any]) -> list[Any]:
    return [_value(scalar) for scalar in scalars]


def _text(scalar: Any) -> str:
    return str(pa.array([scalar], scalar.type).cast(pa.string())[0])
