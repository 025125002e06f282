"""Parquet files, read a batch of rows at a time, from any row on."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sharcs.data.files.packed import is_packed
from sharcs.data.files.remote import is_url, open_url
from sharcs.data.files.textfiles import CHUNK_ROWS, open_bytes
from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator


class ParquetRows:
    """A Parquet file.

    Args:
        path: Where it is, a path or a URL.

    Attributes:
        schema: Its columns.
        count: How many rows it has.

    Raises:
        InputError: If it is empty, or none.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._unpacked: Any = None
        with open_bytes(path) as file:
            if not file.read(1):
                raise InputError(f"{path}: the file is empty, the table has no rows")
            if is_packed(path):
                # Parquet is read from its end.
                self._unpacked = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the rows are used
                file.seek(0)
                shutil.copyfileobj(file, self._unpacked)
        with self._readable() as parquet:
            self.schema: pa.Schema = parquet.schema_arrow
            self.count = int(parquet.metadata.num_rows)

    def batches(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        """Read the rows behind the first ``start``; row groups before them are left alone."""
        with self._readable() as parquet:
            # Not read_table(path), which would add columns for directories that are named key=value.
            groups = list(range(parquet.num_row_groups))
            while groups and start >= (rows := parquet.metadata.row_group(groups[0]).num_rows):
                start -= rows
                del groups[0]
            for batch in parquet.iter_batches(batch_size=CHUNK_ROWS, row_groups=groups):
                if start < batch.num_rows:
                    yield batch.slice(start)
                start = max(0, start - batch.num_rows)

    @contextmanager
    def _readable(self) -> Iterator[Any]:
        opened = None
        try:
            if self._unpacked is None and is_url(self._path):
                opened = open_url(self._path)
            yield pq.ParquetFile(self._unpacked or opened or self._path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self._path}: not a readable Parquet file ({first_line(error)})") from error
        finally:
            if opened is not None:
                opened.close()
