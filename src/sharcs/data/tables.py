"""Tables in and out: CSV, TSV, JSON lines and Parquet files (also packed), built-in and hub data sets."""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sharcs.data.delimited import delimited_batches, delimited_schema, write_delimited, write_header
from sharcs.data.dialects import DELIMITERS, USUAL, Dialect
from sharcs.data.files.packed import PACKINGS, packed, split_packing
from sharcs.data.files.parquet import ParquetRows
from sharcs.data.files.remote import is_url, without_scheme
from sharcs.data.files.textfiles import CHUNK_ROWS, TextFile
from sharcs.data.jsonlines import as_strings, json_batches, json_schema, schema_as_strings, write_jsonl
from sharcs.data.named import DATASETS, builtin_table, hub_table
from sharcs.errors import InputError, first_line

FORMATS = (*DELIMITERS, ".jsonl", ".parquet")
SUPPORTED = f"{', '.join(FORMATS)}, each also with {' or '.join(PACKINGS)}"

# A Parquet row group is written when it has so many rows or bytes.
GROUP_ROWS = 1 << 16
GROUP_BYTES = 1 << 26

# NAME:SPLIT, OWNER/NAME:SPLIT or OWNER/NAME@CONFIG:SPLIT; SPLIT is as in `datasets`, train[:10%] too.
DATASET_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<config>[\w.-]+))?:(?P<split>[\w.-]+(\[\S*\])?)")


@dataclass(frozen=True, slots=True)
class TableStream:
    """A table of any size, read a batch of rows at a time.

    Attributes:
        source: Where it is from, for messages.
        schema: Its columns. Those of JSON lines hold JSON texts; see :mod:`sharcs.data.jsonlines`.
        dialect: How text files are written, if that was said.
        batches: Starts at the first row, each time that it is called. Malformed rows raise ``InputError``.
        parquet: What else a Parquet file can do: say how many rows it has, and start behind some of them.
    """

    source: str
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]
    dialect: Dialect = USUAL
    parquet: ParquetRows | None = None


def open_table(source: str | Path, dialect: Dialect = USUAL) -> TableStream:
    """Open a file, a built-in data set or one of the Hugging Face hub; a file's rows are not kept in memory.

    Arguments and errors are those of :func:`read_table`, but rows of CSV and TSV are checked when they are read, and
    a table may turn out to have none.
    """
    source = without_scheme(os.fspath(source))
    # A data set's name is looked up only after the local file system: a file wins over a data set.
    if os.path.isfile(source) or is_url(source):
        stream = _open_file(source, dialect)
    elif os.path.isdir(source):
        raise InputError(f"{source}: a directory; give one file ({SUPPORTED})")
    elif os.path.exists(source):
        raise InputError(f"{source}: a pipe or a device, which can't be read twice; save it as a file ({SUPPORTED})")
    else:
        table = _read_named(source)
        stream = TableStream(source, table.schema, lambda: iter(table.to_batches(CHUNK_ROWS)))
    if not len(stream.schema):
        raise InputError(f"{source}: the table has no columns")
    repeated = [name for name, count in Counter(stream.schema.names).items() if count > 1]
    if repeated == [""]:
        raise InputError(
            f"{source}: the header has columns without a name; name them, or remove empty ones at its end"
        )
    if repeated:
        raise InputError(f"{source}: the column {repeated[0]!r} is there more than once; rename one of them")
    return replace(stream, dialect=dialect)


def read_table(source: str | Path, dialect: Dialect = USUAL) -> pa.Table:
    """Read a table from a file, a built-in data set or the Hugging Face hub.

    A file that exists is read as a file, whatever else its name could mean. CSV and TSV columns are read as
    strings, exactly as they stand ("007", "NA" and the empty string too); blank lines are skipped. Values of JSON
    lines become strings, too: those that are none as JSON, booleans as Python writes them.

    Args:
        source: A path or URL of a .csv, .tsv, .jsonl or .parquet file (also with .gz or .zst), a built-in data set
            such as ``reuters-r8:train``, or a data set of the hub as ``owner/name:split`` or
            ``owner/name@config:split``.
        dialect: How a text file is written.

    Returns:
        All columns of the table, at least one row. Hub tables keep the schema metadata of ``datasets``.

    Raises:
        InputError: If the source is not there, malformed, in another encoding, empty, or cannot be reached.
    """
    return as_strings(read_rows(open_table(source, dialect)))


def read_rows(stream: TableStream) -> pa.Table:
    """Read all rows of a table; columns of JSON texts stay what they are.

    Raises:
        InputError: If there is none, or one is malformed.
    """
    table = pa.Table.from_batches(stream.batches(), schema=stream.schema)
    if not table.num_rows:
        raise InputError(f"{stream.source}: the table has no rows")
    return table


def write_table(table: pa.Table, path: str | Path) -> None:
    """Write a table to a file; see :func:`table_writer`."""
    with table_writer(path, table.schema) as write:
        write(table)


@contextmanager
def table_writer(
    path: str | Path, schema: pa.Schema, temporary: Path | None = None, dialect: Dialect = USUAL
) -> Iterator[Callable[[pa.Table], None]]:
    """Write a table to a file, some rows at a time; the extension chooses the format.

    The file is written under another name beside its target and then moved there, so that whoever looks at
    the target finds the whole new file, or what was there before. In CSV, TSV and JSON lines a missing value
    is written as the empty string or null; nested values go into CSV and TSV as JSON. Columns of JSON texts go into
    JSON lines untouched, and into the other formats as strings.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet path, also with .gz or .zst.
        schema: The table's columns.
        temporary: The other name, on the same file system; it is overwritten.
        dialect: What separates the fields of CSV and TSV, and whether they stand in quotes.

    Yields:
        A function that writes the next rows.

    Raises:
        InputError: If the extension is unknown, the file cannot be written, or a field needs quotes that there are
            not to be.
    """
    check_output_path(path)
    suffix = format_of(path)
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    temporary = temporary or target.with_name(f".sharcs-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            with packed(file, target.name) as content, _rows_writer(content, suffix, schema, dialect) as write:
                yield write
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: cannot be written ({first_line(error)}); make room or name another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output_path(path: str | Path) -> None:
    """Check that ``write_table`` can write here, before the work whose result is to be written.

    Args:
        path: The path that will be given to ``write_table``.

    Raises:
        InputError: If the extension is unknown, the path is a directory, or its directory is missing or
            read-only.
    """
    format_of(path)
    if os.path.isdir(path):
        raise InputError(f"{path}: a directory; give the name of a file to write")
    parent = Path(os.path.realpath(path)).parent
    if not parent.is_dir():
        raise InputError(f"{path}: the directory {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the directory {parent} is not writable")


def is_table(name: str) -> bool:
    """Tell whether a file has the extension of a table, by its name."""
    return Path(split_packing(name)[0]).suffix in FORMATS


def format_of(path: str | Path) -> str:
    """Return the extension of a file's format, without that of its compression.

    Raises:
        InputError: If there is no such format.
    """
    name = Path(path).name
    if not is_table(name):
        raise InputError(f"{path}: unknown extension; supported are {SUPPORTED}")
    return Path(split_packing(name)[0]).suffix


def _open_file(path: str, dialect: Dialect) -> TableStream:
    suffix = format_of(path)
    if suffix == ".parquet":
        rows = ParquetRows(path)
        return TableStream(path, rows.schema, rows.batches, parquet=rows)
    file = TextFile(path, dialect.encoding)
    if suffix == ".jsonl":
        schema = json_schema(file)
        return TableStream(path, schema, lambda: json_batches(file, schema))
    dialect = dialect.of_suffix(suffix)
    schema = delimited_schema(file, dialect)
    return TableStream(path, schema, lambda: delimited_batches(file, dialect, schema))


def _read_named(source: str) -> pa.Table:
    """Read what is not a file: a built-in data set or one of the hub."""
    match = DATASET_NAME.fullmatch(source)
    has_extension = is_table(source)
    if match is None or has_extension:
        if has_extension:
            raise InputError(f"{source}: no such file")
        raise InputError(
            f"{source}: no such file; a data set is named NAME:SPLIT ({', '.join(DATASETS)} are built in), "
            "one of the Hugging Face hub OWNER/NAME:SPLIT or OWNER/NAME@CONFIG:SPLIT"
        )
    name, config, split = match["name"], match["config"], match["split"]
    if name in DATASETS and config is None:
        return builtin_table(name, split)
    return hub_table(source, name, config, split)


@contextmanager
def _rows_writer(
    stream: Any, suffix: str, schema: pa.Schema, dialect: Dialect
) -> Iterator[Callable[[pa.Table], None]]:
    """Write rows of one format to an open stream, and what belongs at the end."""
    if suffix == ".parquet":
        waiting: list[pa.Table] = []
        with pq.ParquetWriter(stream, schema_as_strings(schema)) as writer:

            def write_group() -> None:
                if waiting:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting.clear()

            def write_parquet(table: pa.Table) -> None:
                # Row groups of few rows are slow to read.
                waiting.append(as_strings(table))
                if sum(t.num_rows for t in waiting) >= GROUP_ROWS or sum(t.nbytes for t in waiting) >= GROUP_BYTES:
                    write_group()

            yield write_parquet
            write_group()
        return
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    if suffix == ".jsonl":
        yield lambda table: write_jsonl(table, text)
    else:
        dialect = dialect.of_suffix(suffix)
        write_header(schema, text, dialect)
        yield lambda table: write_delimited(as_strings(table), text, dialect)
    text.detach()  # flushes, and leaves the stream open
