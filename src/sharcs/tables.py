"""Tables in and out: CSV, TSV, JSON lines and Parquet files (also gzipped), built-in and hub data sets."""

from __future__ import annotations

import gzip
import io
import os
import re
import secrets
import shutil
import zlib
from collections import Counter
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sharcs.builtin import DATASETS, builtin_table, hub_table
from sharcs.errors import InputError, first_line
from sharcs.textfiles import decode, parse_delimited, parse_jsonl, write_delimited, write_jsonl

__all__ = ["check_output_path", "read_table", "write_table"]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".parquet")
SUPPORTED = f"{', '.join(FORMATS)}, each also with .gz"

# NAME:SPLIT, OWNER/NAME:SPLIT or OWNER/NAME@CONFIG:SPLIT; SPLIT is as in `datasets`, train[:10%] too.
DATASET_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<config>[\w.-]+))?:(?P<split>[\w.-]+(\[\S*\])?)")


def read_table(source: str | Path) -> pa.Table:
    """Read a table from a file, a built-in data set or the Hugging Face hub.

    A file that exists is read as a file, whatever else its name could mean. CSV and TSV columns are read as
    strings, exactly as they stand ("007", "NA" and the empty string too); blank lines are skipped. Text is
    UTF-8 or, with a byte-order mark, UTF-16; bytes that are neither are read as Windows-1252, with a warning.

    Args:
        source: A path to a .csv, .tsv, .jsonl or .parquet file (also with .gz), a built-in data set such as
            ``reuters-r8:train``, or a data set of the hub as ``owner/name:split`` or
            ``owner/name@config:split``.

    Returns:
        All columns of the table, at least one row. Hub tables keep the schema metadata of ``datasets``.

    Raises:
        InputError: If the source is not there, malformed, empty, or cannot be reached.
    """
    source = os.fspath(source)
    # A data set's name is looked up only after the local file system: a file wins over a data set.
    if os.path.isfile(source):
        table = _read_file(source)
    elif os.path.isdir(source):
        raise InputError(f"{source}: a directory; give one file ({SUPPORTED})")
    else:
        table = _read_named(source)
    if not table.num_columns:
        raise InputError(f"{source}: the table has no columns")
    repeated = [name for name, count in Counter(table.column_names).items() if count > 1]
    if repeated:
        raise InputError(f"{source}: the column {repeated[0]!r} is there more than once; rename one of them")
    if not table.num_rows:
        raise InputError(f"{source}: the table has no rows")
    return table


def write_table(table: pa.Table, path: str | Path) -> None:
    """Write a table to a file; the extension chooses the format.

    The file is written under another name beside its target and then moved there, so that whoever looks at
    the target finds the whole new file, or what was there before. In CSV, TSV and JSON lines a missing value
    is written as the empty string or null; nested values go into CSV and TSV as JSON.

    Args:
        table: The table to write.
        path: A .csv, .tsv, .jsonl or .parquet path, also with .gz.

    Raises:
        InputError: If the extension is unknown, or the file cannot be written.
    """
    check_output_path(path)
    suffix, gzipped = _format_of(path)
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    temporary = target.with_name(f".sharcs-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            if gzipped:
                # No name and time in the gzip header: the same table gives the same bytes.
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as compressed:
                    _write(table, compressed, suffix)
            else:
                _write(table, file, suffix)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be written ({first_line(error)})") from error
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
    _format_of(path)
    if os.path.isdir(path):
        raise InputError(f"{path}: a directory; give the name of a file to write")
    parent = Path(os.path.realpath(path)).parent
    if not parent.is_dir():
        raise InputError(f"{path}: the directory {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the directory {parent} is not writable")


def _format_of(path: str | Path) -> tuple[str, bool]:
    """Return the format's extension, and whether the file is gzipped."""
    name = Path(path).name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in FORMATS:
        raise InputError(f"{path}: unknown extension; supported are {SUPPORTED}")
    return suffix, name.endswith(".gz")


def _read_file(path: str) -> pa.Table:
    suffix, gzipped = _format_of(path)
    try:
        raw = Path(path).read_bytes()
        if gzipped:
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from error
    if not raw:
        raise InputError(f"{path}: the file is empty, the table has no rows")
    if suffix == ".parquet":
        try:
            # Not read_table(path), which would add columns for directories that are named key=value.
            return pq.ParquetFile(pa.BufferReader(raw)).read()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a readable Parquet file ({first_line(error)})") from error
    text = decode(raw, path)
    return parse_jsonl(text, path) if suffix == ".jsonl" else parse_delimited(text, DELIMITERS[suffix], path)


def _read_named(source: str) -> pa.Table:
    """Read what is not a file: a built-in data set or one of the hub."""
    match = DATASET_NAME.fullmatch(source)
    has_extension = Path(source.lower().removesuffix(".gz")).suffix in FORMATS
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


def _write(table: pa.Table, stream: IO[bytes] | gzip.GzipFile, suffix: str) -> None:
    if suffix == ".parquet":
        pq.write_table(table, stream)
        return
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=False)
    if suffix == ".jsonl":
        write_jsonl(table, text)
    else:
        write_delimited(table, text, DELIMITERS[suffix])
    text.detach()  # flushes, and leaves the stream open
