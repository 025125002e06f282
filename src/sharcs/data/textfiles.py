"""The text formats of tables, CSV, TSV and JSON lines: decoding, parsing, writing."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import warnings
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

__all__ = [
    "TextFormat",
    "delimited_records",
    "find_format",
    "in_chunks",
    "json_rows",
    "string_batch",
    "write_delimited",
    "write_jsonl",
]

Row = TypeVar("Row")

BLOCK_BYTES = 1 << 20

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


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How the bytes of a text file are read: encoding, its error handler, and the bytes of a mark before the text."""

    encoding: str
    errors: str
    skip: int


def find_format(file: IO[bytes], path: str) -> TextFormat:
    """Read a text file through once to tell its encoding; refuse NUL, which binary files and unmarked UTF-16 have.

    Raises:
        InputError: If it is empty or no text.
    """
    first = file.read(BLOCK_BYTES)
    if not first:
        raise InputError(f"{path}: the file is empty, the table has no rows")
    utf16 = first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    skip = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
    decoder = codecs.getincrementaldecoder("utf-16" if utf16 else "utf-8")()
    lines, nul, foreign = 1, None, None
    for block in itertools.chain([first[skip:]], iter(lambda: file.read(BLOCK_BYTES), b""), [None]):
        text: str | None = None
        if utf16 or foreign is None:
            try:
                text = decoder.decode(block or b"", final=block is None)
            except UnicodeDecodeError as error:
                if utf16:
                    raise InputError(f"{path}: it has UTF-16's byte-order mark, but is not valid UTF-16") from error
                foreign = lines + error.object.count(b"\n", 0, error.start)
        here = (text or "").encode("utf-8") if utf16 else block or b""
        if nul is None and (at := here.find(b"\0")) >= 0:
            nul = lines + here.count(b"\n", 0, at)
        lines += here.count(b"\n")
    if foreign is not None:
        warnings.warn(f"{path}: not UTF-8 (line {foreign}); read as Windows-1252", stacklevel=2)
    if nul is not None:
        raise InputError(f"{path}: line {nul} has a NUL byte; save the file as UTF-8 text")
    if utf16:
        return TextFormat("utf-16", "strict", 0)
    return TextFormat("utf-8", "strict", skip) if foreign is None else TextFormat("cp1252", "sharcs-latin1", skip)


def delimited_records(text: IO[str], delimiter: str, path: str) -> Generator[list[str], None, None]:
    """Parse CSV or TSV: the header, then every record, as long as the header.

    Raises:
        InputError: If there is no header, or a record is malformed; the message names row and line.
    """
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)
    try:
        yield from _checked_records(csv.reader(text, delimiter=delimiter, strict=True), path)
    finally:
        csv.field_size_limit(limit)


def _checked_records(reader: Any, path: str) -> Iterator[list[str]]:
    header: list[str] | None = None
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
        elif len(record) != len(header):
            raise InputError(
                f"{path}: {where(line)}: {len(record)} fields, but the header has {len(header)}; "
                "quote fields that contain the separator"
            )
        else:
            count += 1
        yield record
    if header is None:
        raise InputError(f"{path}: the file is empty, the table has no rows")


def string_batch(rows: list[list[str]], schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch of records, all columns strings."""
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that is there twice (of which ``json`` would silently drop one)."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def json_rows(text: IO[str], path: str) -> Iterator[dict[str, Any]]:
    """Parse JSON lines, blank ones left out.

    Raises:
        InputError: If a line is no JSON object; the message names row and line.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    count = 0
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        count += 1
        where = f"{path}: row {count} (line {number})"
        try:
            row = decoder.decode(line.strip())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({first_line(error)}); give one object per line") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object but {type(row).__name__}; give one object per line")
        yield row


def in_chunks(rows: Iterable[Row], size: int = CHUNK_ROWS) -> Iterator[list[Row]]:
    """Group rows into lists of ``size``, the last one shorter."""
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def write_delimited(table: pa.Table, text: IO[str], delimiter: str, header: bool = True) -> None:
    """Write CSV or TSV, or more rows of it: null as an empty field, nested values as JSON."""
    # All strings are quoted: with minimal quoting, Python 3.11 leaves a lone carriage return bare, and a
    # column name that begins with U+FEFF would be taken for a byte-order mark.
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    if header:
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
