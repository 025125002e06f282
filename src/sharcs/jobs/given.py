"""What a classifier is given, as the tables that the jobs read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sharcs.data.given import labels_given, texts_given
from sharcs.data.texts import PAIR_COLUMN, Columns, TextData
from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from sharcs_runtime.tokens import Text

TEXT, PAIR, LABEL = Columns().text, PAIR_COLUMN, Columns().label


def texts_table(texts: Any) -> pa.Table:
    """Put texts, or pairs of them, into a table.

    Args:
        texts: See :func:`sharcs.data.given.texts_given`.

    Raises:
        InputError: If something among them is no text, or an empty one; the message counts from 1.
    """
    return _table_of(texts_given(texts))


def rows_table(texts: Any, labels: Any, known: Collection[str] | None = None) -> tuple[pa.Table, NDArray[Any]]:
    """Put texts and their classes into a table, the latter as strings.

    Args:
        texts: See :func:`sharcs.data.given.texts_given`.
        labels: See :func:`sharcs.data.given.labels_given`.
        known: The classes that there may be, as strings; None for any.

    Returns:
        The table, and the distinct classes in their own type, ascending.

    Raises:
        InputError: If texts or labels are not right; the message counts from 1.
    """
    given = texts_given(texts)
    of = labels_given(labels, len(given))
    names = [str(label) for label in of.tolist()]
    for number, name in enumerate(names, 1):
        if known is not None and name not in known:
            raise InputError(
                f"labels: number {number} is {name!r}, which is no class of the training; correct it or drop the text"
            )
    return _table_of(given).append_column(LABEL, pa.array(names, pa.string())), np.unique(of)


def text_data(table: pa.Table) -> TextData:
    """Take a table of ours as checked texts."""
    texts, pairs, labels = (
        table[name].to_pylist() if name in table.column_names else None for name in (TEXT, PAIR, LABEL)
    )
    return TextData(table, texts or [], pairs, labels, "texts")


def _table_of(texts: list[Text]) -> pa.Table:
    for number, text in enumerate(texts, 1):
        if not all(part.strip() for part in (text if isinstance(text, tuple) else (text,))):
            raise InputError(f"texts: number {number} is empty; fill it in or drop it")
    pairs = bool(texts) and isinstance(texts[0], tuple)
    columns = dict(zip((TEXT, PAIR), zip(*texts, strict=True), strict=True)) if pairs else {TEXT: texts}
    return pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()})
