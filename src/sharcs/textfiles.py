"""The text formats of tables, CSV, TSV and JSON lines: decoding, parsing, writing."""

from __future__ import annotations

import bisect
import codecs
import csv
import io
import json
import warnings
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from sharcs.errors import InputError, first_line

__all__ = ["decode", "parse_delimited", "parse_jsonl", "write_delimited", "write_jsonl"]

# Rows per chunk of a column: large enough to be quick, small enough that no chunk meets Arrow's 2 GB limit.
CHUNK_ROWS = 8192

# The csv module refuses fields over 128 kB unless told otherwise; this is the largest limit that every
# platform takes.
CSV_FIELD_LIMIT = 2**31 - 1


def _undefined_as_latin1(error: UnicodeError) -> tuple[str, int]:
    """Decode the five bytes that Windows-1252 leaves undefined as Latin-1."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("sharcs-latin1", _undefined_as_latin1)


def decode(raw: bytes, path: str) -> str:
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


def parse_delimited(text: str, delimiter: str, path: str) -> pa.Table:
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


def parse_jsonl(text: str, path: str) -> pa.Table:
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


def write_delimited(table: pa.Table, text: IO[str], delimiter: str) -> None:
    """Write CSV or TSV: null as an empty field, nested values as JSON."""
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


def write_jsonl(table: pa.Table, text: IO[str]) -> None:
    """Write an object a line."""
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
