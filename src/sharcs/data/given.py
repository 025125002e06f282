"""Texts and classes as Python users have them: lists, NumPy, pandas, Arrow, polars, ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.data.texts import PAIR_COLUMN, Columns
from sharcs.errors import InputError
from sharcs_runtime.answers import has_room
from sharcs_runtime.tokens import checked_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sharcs_runtime.tokens import Text


def texts_given(given: Any) -> list[Text]:
    """Bring texts into the form that engines answer.

    Args:
        given: A series of strings, or of two strings each; or a table with a column ``text`` (and ``text_pair`` for
            pairs), or with one or two columns.

    Returns:
        Strings, or tuples of two.

    Raises:
        InputError: If it is none of these, or a text is no string; the message counts from 1.
    """
    if isinstance(given, str | bytes | bytearray):
        raise InputError("texts: is one text; give a list")
    names = _column_names(given)
    if names is None:
        values = _values(given, "texts")
        return list(checked_texts([tuple(value) if isinstance(value, list) else value for value in values]))
    parts = [_values(given[name], "texts") for name in _text_columns(names)]
    return list(checked_texts(parts[0] if len(parts) == 1 else zip(*parts, strict=True)))


def labels_given(given: Any, count: int) -> NDArray[Any]:
    """Bring classes into an array ``[count]`` of their own type.

    Args:
        given: A series of strings, whole numbers or booleans.
        count: How many texts they are of.

    Raises:
        InputError: If there are more or fewer, or one is missing, no class, or of another type than the first; the
            message counts from 1.
    """
    if isinstance(given, str | bytes | bytearray):
        raise InputError("labels: is one label; give a list, one a text")
    names = _column_names(given)
    if names is not None and len(names) == 1:
        given = given[names[0]]
    elif names is not None:
        raise InputError(f"labels: is a table of {len(names)} columns; give the column with the classes")
    values = _values(given, "labels")
    if len(values) != count:
        raise InputError(f"labels: are {len(values):,}, and there are {count:,} texts; give one a text")
    for number, value in enumerate(values, 1):
        _check_label(value, type(values[0]), number)
    return np.array(values)


def are_sets(given: Any) -> bool:
    """Tell sets of labels from classes: a table or a matrix of flags, or a series of lists."""
    names = _column_names(given)
    if names is not None:
        return len(names) > 1
    first = next(iter(_values(given, "labels")), None)
    return isinstance(first, list | tuple | set | frozenset)


def sets_given(given: Any, count: int) -> tuple[list[list[Any]], list[Any]]:
    """Bring sets of labels into lists.

    Args:
        given: A matrix of zeros and ones ``[texts, labels]``, as scikit-learn takes it; a table of such columns,
            named like the labels; or a list of lists of labels.
        count: How many texts they are of.

    Returns:
        The labels of each text, and all labels, ascending or in the order of the columns.

    Raises:
        InputError: If there are more or fewer, or something is no flag or no label; the message counts from 1.
    """
    names: list[Any] | None = _column_names(given)
    if names is not None:
        rows = [list(row) for row in zip(*(_values(given[name], "labels") for name in names), strict=True)]
    else:
        rows = [list(value) for value in _values(given, "labels")]
    if len(rows) != count:
        raise InputError(f"labels: are of {len(rows):,} texts, and there are {count:,}; give a set a text")
    if names is None and getattr(given, "ndim", 1) != 2:
        for number, labels in enumerate(rows, 1):
            for label in labels:
                _check_label(label, type(label), number)
        return [list(labels) for labels in rows], sorted({label for labels in rows for label in labels})
    names = list(range(len(rows[0]))) if names is None else names
    for number, flags in enumerate(rows, 1):
        if not set(flags) <= {0, 1}:
            raise InputError(f"labels: number {number} is {list(flags)!r}; give zeros and ones, one a label")
    return [[name for name, has in zip(names, flags, strict=True) if has] for flags in rows], names


def _check_label(value: Any, kind: type, number: int) -> None:
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise InputError(f"labels: number {number} is missing; fill it in or drop the text")
    if isinstance(value, list | tuple | dict | set):
        raise InputError(f"labels: number {number} is a {type(value).__name__}; give one class a text")
    if isinstance(value, float) and not value.is_integer():
        raise InputError(f"labels: number {number} is {value!r}, no class; regression is not supported here")
    if isinstance(value, int | float) and not has_room(value):
        raise InputError(f"labels: number {number} is {value}, too long for 64 bits; give strings")
    if not isinstance(value, str | int | float):
        raise InputError(f"labels: number {number} is a {type(value).__name__}; give strings, numbers or booleans")
    if type(value) is not kind:
        raise InputError(
            f"labels: number {number} is a {type(value).__name__}, and number 1 a {kind.__name__}; give all alike"
        )


def _column_names(given: Any) -> list[str] | None:
    """List the columns of a table; None if it is a series."""
    if isinstance(given, Mapping):
        return list(given)
    for attribute in ("column_names", "columns"):  # Arrow and datasets; pandas and polars
        names = getattr(given, attribute, None)
        if names is not None and not callable(names):
            return list(names)
    return None


def _text_columns(names: list[str]) -> list[str]:
    text = Columns().text
    if text in names:
        return [text, PAIR_COLUMN] if PAIR_COLUMN in names else [text]
    if len(names) in (1, 2):
        return names
    shown = ", ".join(map(repr, names[:20]))
    raise InputError(f"texts: is a table with the columns {shown}; name one {text!r}, or give the column of texts")


def _values(given: Any, what: str) -> list[Any]:
    """List the values of a series, as Python objects."""
    for method in ("to_pylist", "tolist", "to_list"):  # Arrow; NumPy and pandas; polars
        if hasattr(given, method):
            values = getattr(given, method)()
            return values if isinstance(values, list) else [values]
    try:
        return [value.item() if isinstance(value, np.generic) else value for value in given]
    except TypeError as error:
        raise InputError(f"{what}: is a {type(given).__name__}; give a list") from error
