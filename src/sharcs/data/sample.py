"""Rows drawn from many tables of any size, which are read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sharcs.data.columns import find_column
from sharcs.data.dialects import USUAL, Dialect
from sharcs.data.jsonlines import as_strings
from sharcs.data.labels import problem_type_of_columns, read_targets
from sharcs.data.sources import sources_of
from sharcs.data.tables import open_table
from sharcs.data.texts import TextData, checked_texts, pair_column
from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sharcs.data.texts import Columns


class Reservoir:
    """Keeps some of the rows that come by, each with the same chance: those whose random number is among the least.

    Args:
        count: How many to keep; None for all.
        seed: The same seed keeps the same rows of the same ones, however these are cut into parts.
    """

    def __init__(self, count: int | None, seed: int) -> None:
        self._count = count
        self._random = np.random.default_rng((seed, *b"reservoir"))
        self._bound = 1.0  # a row with this number or more can't be kept
        self._keys: NDArray[np.float64] = np.empty(0)
        self._parts: list[pa.Table] = []
        self.seen = 0

    def draw(self, rows: int) -> NDArray[np.int64]:
        """Say which of the next rows may be kept: their positions; :meth:`add` has to be given these."""
        keys = self._random.random(rows)
        chosen = np.flatnonzero(keys < self._bound)
        self._keys = np.concatenate([self._keys, keys[chosen]])
        self.seen += rows
        return chosen

    def add(self, rows: pa.Table) -> None:
        """Take the rows that :meth:`draw` named."""
        self._parts.append(rows)
        if self._count is not None and len(self._keys) >= 2 * self._count:
            self._drop()

    def rows(self) -> pa.Table:
        """List what is kept, in the order in which it came by.

        Raises:
            ArrowException: If the parts have different columns.
        """
        if self._count is not None and len(self._keys) > self._count:
            self._drop()
        return pa.concat_tables(self._parts)

    def _drop(self) -> None:
        kept = np.sort(np.argsort(self._keys, kind="stable")[: self._count])
        self._parts = [pa.concat_tables(self._parts).take(kept)]
        self._keys = self._keys[kept]
        self._bound = float(self._keys.max())


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts that were drawn.

    Attributes:
        texts: They, in the order of the tables. Their rows are not numbered.
        rows: How many rows they were drawn from.
    """

    texts: TextData
    rows: int


def sample_texts(
    names: Sequence[str],
    columns: Columns,
    *,
    labelled: bool = True,
    max_samples: int | None = None,
    seed: int = 0,
    dialect: Dialect = USUAL,
    also: Sequence[str] = (),
    problem_type: str | None = None,
) -> Sample:
    """Draw rows from tables, in one pass and in memory for twice as many; rows that may be taken are checked.

    Args:
        names: What :func:`sharcs.data.sources.sources_of` takes.
        columns: The names of the columns to use.
        labelled: Whether every row must have a label. If not, labels are taken if all rows have a valid one.
        max_samples: How many rows, at most; None for all.
        seed: Of the draw.
        dialect: How text files are written.
        also: Columns to keep besides.
        problem_type: What the labels have to be; see :func:`sharcs.data.texts.load_texts`.

    Raises:
        InputError: If a table can't be read, a column is missing or of the wrong type or unlike that of another
            table, or a row has no text or no label.
    """
    if max_samples is not None and max_samples < 1:
        raise InputError(f"`max_samples` is {max_samples}; it must be at least 1")
    sources = sources_of(names)
    source = sources[0].name + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")
    reservoir = Reservoir(max_samples, seed)
    for number, name in enumerate(source.name for source in sources):
        stream = open_table(name, dialect)
        if not number:
            pair = pair_column(stream.schema, columns)
        kinds = {"text": columns.text, "text pair": pair}
        needed = [*kinds.items(), *(("label", column) for column in columns.labels if labelled)]
        for kind, column in needed:
            if column is not None:
                find_column(stream.schema.empty_table(), column, kind, name)
        asked = dict.fromkeys([*kinds.values(), *columns.labels, *also])
        wanted = [column for column in asked if column in stream.schema.names]
        before = 0
        for batch in stream.batches():
            chosen = reservoir.draw(batch.num_rows)
            rows = pa.Table.from_batches([batch], stream.schema).take(chosen).select(wanted)
            for kind in ("text", "text pair"):
                if (column := kinds[kind]) is not None:
                    _check(rows, column, kind, name, before + chosen)
            of = columns.labels, problem_type or problem_type_of_columns(rows, columns.labels)
            labels = _labels(rows, of, name, before + chosen, labelled)
            # Last, and by its place: a table may have a column of any name.
            reservoir.add(as_strings(rows).append_column("", pa.array(labels, pa.string())))
            before += batch.num_rows
    try:
        table = reservoir.rows()
    except pa.ArrowException as error:
        raise InputError(
            f"{source}: have different columns ({first_line(error)}); give tables that are alike"
        ) from error
    if not table.num_rows:
        raise InputError(f"{source}: the table has no rows")
    found: list[str | None] = table.column(table.num_columns - 1).to_pylist()
    table = table.remove_column(table.num_columns - 1)
    texts = checked_texts(table, columns.text, "text", source)
    pairs = None if pair is None else checked_texts(table, pair, "text pair", source)
    known = [label for label in found if label is not None]
    complete = known if len(known) == len(found) else None
    kind = problem_type or of[1]
    return Sample(TextData(table, texts, pairs, complete, source, problem_type=kind), reservoir.seen)


def _check(rows: pa.Table, column: str, kind: str, source: str, numbers: NDArray[np.int64]) -> None:
    """Refuse rows of a table without a text; ``numbers`` says which rows they are, from 0."""
    try:
        checked_texts(rows, column, kind, source)
    except InputError:
        for index, number in enumerate(numbers.tolist()):
            checked_texts(rows.slice(index, 1), column, kind, source, number)
        raise


def _labels(
    rows: pa.Table, of: tuple[tuple[str, ...], str], source: str, numbers: NDArray[np.int64], labelled: bool
) -> Sequence[str | None]:
    """Read the labels of rows, of columns and a problem type; if one is wrong and none is needed, all are None."""
    try:
        return read_targets(rows, of[0], source, of[1])[0]
    except InputError:
        if not labelled:
            return [None] * rows.num_rows
        for index, number in enumerate(numbers.tolist()):
            read_targets(rows.slice(index, 1), of[0], source, of[1], number)
        raise
