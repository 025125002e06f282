"""Tables in and out: CSV, TSV, JSON lines and Parquet files (also gzipped), built-in and hub data sets."""

from __future__ import annotations

import bisect
import codecs
import csv
import gzip
import io
import json
import os
import re
import secrets
import shutil
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharcs.builtin import DATASETS, builtin_table, first_line, hub_table
from sharcs.errors import InputError

__all__ = ["check_output_path", "read_table", "write_table"]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".parquet")
SUPPORTED = f"{', '.join(FORMATS)}, each also with .gz"

# NAME:SPLIT, OWNER/NAME:SPLIT or OWNER/NAME@CONFIG:SPLIT; SPLIT is as in `datasets`, train[:10%] too.
DATASET_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<config>[\w.-]+))?:(?P<split>[\w.-]+(\[\S*\])?)")

# Rows per chunk of a column: large enough to be quick, small enough that no chunk meets Arrow's 2 GB limit.
CHUNK_ROWS = 8192

# The csv module refuses fields over 128 kB unless told otherwise; this is the largest limit that every
# platform takes.
CSV_FIELD_LIMIT = 2**31 - 1


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
    text = _decode(raw, path)
    return _parse_jsonl(text, path) if suffix == ".jsonl" else _parse_delimited(text, DELIMITERS[suffix], path)


def _undefined_as_latin1(error: UnicodeError) -> tuple[str, int]:
    """Decode the five bytes that Windows-1252 leaves undefined as Latin-1."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("sharcs-latin1", _undefined_as_latin1)


def _decode(raw: bytes, path: str) -> str:
    """Decode a text file; refuse NUL, which binary files and UTF-16 without its mark have."""
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8")
    except UnicodeDecodeError as error:
        if utf16:
            raise InputError(f"{path}: it has UTF-16's byte-order mark, but is not valid UTF-16") from error
        line = raw.count(b"\n", 0, error.start) + 1
        warnings.warn(f"{path}: not UTF-8 (line {line}); read as Windows-1252", stacklevel=2)
        text = raw.decode("cp1252", errors="sharcs-latin1")
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise InputError(f"{path}: line {line} has a NUL byte; save the file as UTF-8 text")
    return text


def _parse_delimited(text: str, delimiter: str, path: str) -> pa.Table:
    """Parse CSV or TSV, all columns as strings."""
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)
    try:
        return _parse_records(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), path)
    finally:
        csv.field_size_limit(limit)


def _parse_records(reader: Any, path: str) -> pa.Table:
    header: list[str] | None = None
    batches: list[pa.RecordBatch] = []
    rows: list[list[str]] = []
    count = 0

    def where(line: int) -> str:
        return f"the header (line {line})" if header is None else f"row {count + 1} (line {line})"

    while True:
        line = reader.line_num + 1  # where the record begins; afterwards line_num is where it ends
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}: {where(line)}: {error}; "
                "a field that begins with a quote must end with one, quotes in it doubled"
            ) from error
        if record is None:
            break
        if not record:
            continue  # a blank line
        if header is None:
            header = record
            continue
        if len(record) != len(header):
            raise InputError(
                f"{path}: {where(line)}: {len(record)} fields, but the header has {len(header)}; "
                "quote fields that contain the separator"
            )
        count += 1
        rows.append(record)
        if len(rows) == CHUNK_ROWS:
            batches.append(_string_batch(rows, header))
            rows = []
    if header is None:
        raise InputError(f"{path}: the file is empty, the table has no rows")
    if rows or not batches:
        batches.append(_string_batch(rows, header))
    return pa.Table.from_batches(batches)


def _string_batch(rows: list[list[str]], header: list[str]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in columns], names=header)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that is there twice (of which ``json`` would silently drop one)."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def _parse_jsonl(text: str, path: str) -> pa.Table:
    """Parse JSON lines; the columns are all keys, in the order in which they first appear."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    # newline="\n": U+2028 and the like may stand inside JSON strings, and do not end a row.
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: row {len(rows) + 1} (line {number})"
        try:
            row = decoder.decode(line.strip())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({first_line(error)}); give one object per line") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object but {type(row).__name__}; give one object per line")
        rows.append(row)
        names.update(dict.fromkeys(row))
    if not rows:
        raise InputError(f"{path}: the file is empty, the table has no rows")
    return pa.table({name: _infer_column([row.get(name) for row in rows], name, path) for name in names})


def _infer_column(values: list[Any], name: str, path: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError):
        pass
    try:
        # Pandas writes a missing string as NaN; this reads NaN as null.
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:

        def fails(length: int) -> bool:
            try:
                pa.array(values[:length], from_pandas=True)
            except (pa.ArrowException, OverflowError, UnicodeError):
                return True
            return False

        # The first row that the column cannot take along with the rows before it.
        row = bisect.bisect_left(range(len(values)), True, key=fails)
        raise InputError(
            f"{path}: row {row}: {name!r} does not fit the rows before it ({first_line(error)}); "
            "give one type per column"
        ) from error


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
        _write_jsonl(table, text)
    else:
        _write_delimited(table, text, DELIMITERS[suffix])
    text.detach()  # flushes, and leaves the stream open


def _write_delimited(table: pa.Table, text: IO[str], delimiter: str) -> None:
    # All strings are quoted: with minimal quoting, Python 3.11 leaves a lone carriage return bare, and a
    # column name that begins with U+FEFF would be taken for a byte-order mark.
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(table.column_names)
    for batch in table.to_batches(CHUNK_ROWS):
        columns = [column.to_pylist() for column in batch.columns]
        for index, field in enumerate(table.schema):
            if pa.types.is_nested(field.type):
                columns[index] = [None if value is None else _json(value) for value in columns[index]]
        writer.writerows(zip(*columns, strict=True))


def _write_jsonl(table: pa.Table, text: IO[str]) -> None:
    for batch in table.to_batches(CHUNK_ROWS):
        columns = []
        for column in batch.columns:
            # JSON has no NaN and infinity.
            finite = pc.is_finite(column) if pa.types.is_floating(column.type) else None
            columns.append((column if finite is None else pc.if_else(finite, column, None)).to_pylist())
        for values in zip(*columns, strict=True):
            text.write(_json(dict(zip(table.column_names, values, strict=True))) + "\n")


def _json(value: Any) -> str:
    """Encode a value; types that JSON lacks (dates, decimals, bytes) as their text."""
    return json.dumps(value, ensure_ascii=False, default=str)
