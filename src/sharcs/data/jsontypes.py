"""Types of the columns of JSON lines, found a chunk of rows at a time."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["JsonTypes"]

REFUSALS = (pa.ArrowException, OverflowError, UnicodeError)


class JsonTypes:
    """Finds the columns of JSON lines, all keys in the order in which they first appear, and their types.

    Args:
        path: The file, for messages.
    """

    def __init__(self, path: str) -> None:
        """Start without columns."""
        self._path = path
        self._columns: dict[str, tuple[_Inference, _Inference]] = {}
        self.rows = 0

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Look at the next rows.

        Raises:
            InputError: If a value doesn't fit the rows before it; the message names its row.
        """
        for name in dict.fromkeys(key for row in rows for key in row):
            # Pandas writes a missing string as NaN; the second inference reads NaN as null.
            plain, pandas = self._columns.setdefault(name, (_Inference(False), _Inference(True)))
            values = [row.get(name) for row in rows]
            plain.add(values)
            refused = pandas.add(values)
            if plain.failed and refused is not None:
                self._refuse(name, self.rows + refused[0], refused[1])
        self.rows += len(rows)

    def schema(self) -> pa.Schema:
        """Return the columns that were found."""
        return pa.schema([(name, self._chosen(name).type) for name in self._columns])

    def batch(self, rows: list[dict[str, Any]], rows_before: int) -> pa.RecordBatch:
        """Make a batch of rows, of this schema.

        Raises:
            InputError: If a value doesn't fit its column.
        """
        arrays = []
        for name in self._columns:
            inference = self._chosen(name)
            values = [row.get(name) for row in rows]
            try:
                arrays.append(pa.array(values, inference.type, from_pandas=inference.from_pandas))
            except REFUSALS as error:

                def fails(length: int, values: list[Any] = values, kind: _Inference = inference) -> bool:
                    return _refused(values[:length], kind.from_pandas, kind.type) is not None

                self._refuse(name, rows_before + _first(fails, len(values)), error)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema())

    def _chosen(self, name: str) -> _Inference:
        plain, pandas = self._columns[name]
        return pandas if plain.failed else plain

    def _refuse(self, name: str, row: int, error: BaseException) -> None:
        raise InputError(
            f"{self._path}: row {row}: {name!r} does not fit the rows before it ({first_line(error)}); "
            "give one type per column"
        ) from error


class _Inference:
    """Arrow's own inference over values that come in chunks.

    Kept are the few values that changed the type, one a change: inferring from these and the next chunk gives what
    inferring from all values would give.
    """

    def __init__(self, from_pandas: bool) -> None:
        self.from_pandas = from_pandas
        self.failed = False
        self.type: pa.DataType = pa.null()
        self._witnesses: list[Any] = []

    def add(self, values: list[Any]) -> tuple[int, BaseException] | None:
        """Look at the next values; the position from 1 of the first that doesn't fit, and why, if there is one."""
        if self.failed:
            return None
        error = _refused([*self._witnesses, *values], self.from_pandas)
        if error is not None:
            self.failed = True

            def fails(length: int) -> bool:
                return _refused([*self._witnesses, *values[:length]], self.from_pandas) is not None

            return _first(fails, len(values)), error
        final = self._type_with(values)
        while self.type != final:
            at = _first(lambda length: self._type_with(values[:length]) != self.type, len(values))
            self._witnesses.append(values[at - 1])
            self.type = self._type_with([])
        return None

    def _type_with(self, values: list[Any]) -> pa.DataType:
        return pa.array([*self._witnesses, *values], from_pandas=self.from_pandas).type


def _refused(values: list[Any], from_pandas: bool, kind: pa.DataType | None = None) -> BaseException | None:
    try:
        pa.array(values, kind, from_pandas=from_pandas)
    except REFUSALS as error:
        return error
    return None


def _first(holds: Any, count: int) -> int:
    """Find the smallest length from 1 for which it holds, if it holds for all longer ones too."""
    lengths: Iterable[int] = range(count + 1)
    return bisect.bisect_left(lengths, True, key=holds)  # type: ignore[call-overload,no-any-return]
