"""What a job is given: where texts are, or the texts themselves, as a classifier takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sharcs.data.dialects import USUAL, Dialect
from sharcs.data.given import are_sets, labels_given, sets_given, texts_given
from sharcs.data.images.tables import load_images
from sharcs.data.labels import read_labels, set_of
from sharcs.data.texts import PAIR_COLUMN, Columns, TextData, load_texts, take_rows
from sharcs.errors import InputError
from sharcs_runtime.scores import MULTI_LABEL

if TYPE_CHECKING:
    from collections.abc import Collection

    from sharcs_runtime.tokens import Text

TEXT, PAIR, LABEL = Columns().text, PAIR_COLUMN, Columns().labels[0]


def read_given(
    given: str | TextData,
    columns: Columns,
    dialect: Dialect = USUAL,
    *,
    labelled: bool = True,
    images: bool = False,
    **draw: Any,
) -> TextData:
    """Take texts that are there already, or read them, or images; see :func:`sharcs.data.texts.load_texts`."""
    if isinstance(given, TextData):
        return given
    load = load_images if images else load_texts
    return load(given, columns, labelled=labelled, dialect=dialect, **draw)


def text_data(
    texts: Any, labels: Any = None, *, known: Collection[str] | None = None, name: str = "texts"
) -> TextData:
    """Check texts, and their classes if they have some.

    Args:
        texts: See :func:`sharcs.data.given.texts_given`.
        labels: See :func:`sharcs.data.given.labels_given`, and :func:`sharcs.data.given.sets_given` for sets of them;
            None for texts without.
        known: The classes that there may be, as strings; None for any.
        name: What later messages call them.

    Raises:
        InputError: If there are none, or texts or labels are not right; the message counts from 1.
    """
    given = texts_given(texts)
    if not given:
        raise InputError("texts: there are none; give at least one")
    table = _table_of(given)
    pairs = table.column(PAIR).to_pylist() if PAIR in table.column_names else None
    read = table.column(TEXT).to_pylist()
    names, label_type = None, None
    if labels is not None and are_sets(labels):
        sets, label_type = _sets(labels, len(given), known)
        return TextData(table, read, pairs, sets, name, label_type=label_type, problem_type=MULTI_LABEL)
    if labels is not None:
        table = table.append_column(LABEL, pa.array(labels_given(labels, len(given))))
        names, label_type = read_labels(table, LABEL, "labels")
        for number, label in enumerate(names, 1):
            if known is not None and label not in known:
                raise InputError(
                    f"labels: number {number} is {label!r}, which is no class of the training; correct it or drop "
                    "the text"
                )
    return TextData(table, read, pairs, names, name, label_type=label_type)


def weighted(data: TextData, weights: Any) -> TextData:
    """Give rows weights; those of weight 0 are left out.

    Args:
        data: Texts with labels.
        weights: A number from 0 on for each.

    Raises:
        InputError: If there are more or fewer, one is none, or all are 0; the message counts from 1.
    """
    values = np.asarray(weights)
    if values.shape != (len(data),) or values.dtype.kind not in "biuf":
        raise InputError(f"sample_weight: has to be {len(data):,} numbers, one a text")
    values = values.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(wrong):
        raise InputError(
            f"sample_weight: number {wrong[0] + 1} is {values[wrong[0]]:g}; give finite numbers from 0 on"
        )
    kept = np.flatnonzero(values)
    if not len(kept):
        raise InputError("sample_weight: all are 0, which leaves nothing to learn from; give some above 0")
    if len(kept) < len(data):
        data = take_rows(data, kept.tolist())
    return replace(data, weights=values[kept].tolist())


def _sets(labels: Any, count: int, known: Collection[str] | None) -> tuple[list[str], str | None]:
    """Write sets of labels, one a text, and tell the labels' type."""
    sets, every = sets_given(labels, count)
    used = {label for of in sets for label in of}
    table = pa.table({LABEL: pa.array(labels_given(every, len(every)))})
    names, label_type = read_labels(table, LABEL, "labels")
    name_of = dict(zip(every, names, strict=True))
    for label, name in name_of.items():
        if known is None and label not in used:
            raise InputError(f"labels: no text has the label {label!r}; leave it out, or give texts that have it")
        if known is not None and name not in known:
            raise InputError(f"labels: {label!r} is no label of the training; correct it or leave it out")
    return [set_of(name_of[label] for label in of) for of in sets], label_type


def _table_of(texts: list[Text]) -> pa.Table:
    for number, text in enumerate(texts, 1):
        if not all(part.strip() for part in (text if isinstance(text, tuple) else (text,))):
            raise InputError(f"texts: number {number} is empty; fill it in or drop it")
    pairs = isinstance(texts[0], tuple)
    columns = dict(zip((TEXT, PAIR), zip(*texts, strict=True), strict=True)) if pairs else {TEXT: texts}
    return pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()})
