"""CSV and TSV: every field is a string, exactly as it stands.

They are read by Python's csv module. pyarrow's streaming reader takes a file that ends within quotes for a whole one,
and loses a line feed behind a carriage return where a block of its ends within quotes.
"""

from __future__ import annotations

import csv
import re
import reprlib
import warnings
from contextlib import closing
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from sharcs.data.files.textfiles import CHUNK_ROWS, in_chunks
from sharcs.data.jsonlines import to_json
from sharcs.data.values import python_values, text_of
from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from sharcs.data.dialects import Dialect
    from sharcs.data.files.textfiles import TextFile

# The csv module refuses fields over 128 kB unless told otherwise; this is the largest limit that every
# platform takes.
FIELD_LIMIT = 2**31 - 1


def delimited_schema(file: TextFile, dialect: Dialect) -> pa.Schema:
    """Read the header.

    Raises:
        InputError: If there is none, or it is malformed.
    """
    with closing(_records(file, dialect)) as records:
        return pa.schema([(name, pa.string()) for name in next(records)])


def delimited_batches(file: TextFile, dialect: Dialect, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read all rows.

    Raises:
        InputError: If a row is malformed; the message names row and line.
    """
    with closing(_records(file, dialect)) as records:
        next(records)  # the header
        for rows in in_chunks(records):
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _records(file: TextFile, dialect: Dialect) -> Generator[list[str], None, None]:
    """Parse the header, then every record, as long as the header; blank lines are left out."""
    limit = csv.field_size_limit(FIELD_LIMIT)
    try:
        with closing(file.lines(newline="")) as lines:
            reader = csv.reader(lines, strict=True, **dialect.csv_options())
            yield from _checked_records(reader, file.path, dialect)
    finally:
        csv.field_size_limit(limit)


def _checked_records(reader: Any, path: str, dialect: Dialect) -> Iterator[list[str]]:
    header: list[str] | None = None
    count = 0

    def where(line: int) -> str:
        return f"the header (line {line})" if header is None else f"row {count + 1} (line {line})"

    while True:
        line = reader.line_num + 1  # where the record begins; afterwards line_num is where it ends
        try:
            record = next(reader, None)
        except csv.Error as error:
            reason = str(error).replace("\t", "\\t")  # the command squeezes white space
            raise InputError(
                f"{path}: {where(line)}: {reason}; a field that begins with a quote must end with one, quotes in it "
                "doubled; where quotes are part of the texts, give `no_quotes`"
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
                + ("take the separator out of the texts" if dialect.no_quotes else "quote fields that contain it")
            )
        else:
            count += 1
        if dialect.delimiter == "\t" and any("\t" in field and "\n" in field for field in record):
            warnings.warn(
                f"{path}: line {line}: a quoted field holds a tab and a line end, so these lines are one row; where "
                "quotes are part of the texts, give `no_quotes`",
                stacklevel=2,
            )
        yield record
    if header is None:
        raise InputError(f"{path}: the file is empty, the table has no rows")


def write_header(schema: pa.Schema, text: IO[str], dialect: Dialect) -> None:
    """Write the names of the columns.

    Raises:
        InputError: If one needs quotes, and there are to be none.
    """
    if dialect.no_quotes:
        _check_unquoted([[name] for name in schema.names], schema.names, dialect, "the header")
        if schema.names[0].startswith("\ufeff"):
            text.write("\ufeff")  # the first one is taken for a byte-order mark
    _writer(text, dialect).writerow(schema.names)


def write_delimited(table: pa.Table, text: IO[str], dialect: Dialect) -> None:
    """Write rows of CSV or TSV: null as an empty field, nested values as JSON.

    Raises:
        InputError: If a field needs quotes, and there are to be none.
    """
    writer = _writer(text, dialect)
    for batch in table.to_batches(CHUNK_ROWS):
        columns = _fields(batch)
        if dialect.no_quotes:
            _check_unquoted(columns, table.column_names, dialect, "a row")
        writer.writerows(zip(*columns, strict=True))


def check_unquoted(table: pa.Table, dialect: Dialect, where: str) -> None:
    """Refuse rows that can't be written without quotes, before the work whose results come beside them.

    Args:
        table: Some rows.
        dialect: How they are to be written.
        where: Names what is refused.

    Raises:
        InputError: If one has a separator or a line end in a field.
    """
    for batch in table.to_batches(CHUNK_ROWS):
        _check_unquoted(_fields(batch), table.column_names, dialect, where)


def _check_unquoted(columns: list[list[Any]], names: list[str], dialect: Dialect, where: str) -> None:
    special = re.compile(f"[\r\n{re.escape(str(dialect.delimiter))}]")
    for name, values in zip(names, columns, strict=True):
        for value in values:
            if isinstance(value, str) and special.search(value):
                raise InputError(
                    f"{where}: {reprlib.repr(value)} (column {name!r}) can't be written without quotes; leave out "
                    "`no_quotes`, or name a .jsonl or .parquet output"
                )
            if len(names) == 1 and value in (None, ""):
                raise InputError(f"{where}: is empty, which can't be written without quotes; leave out `no_quotes`")


def _fields(batch: pa.RecordBatch) -> list[list[Any]]:
    """Take the values of each column as the csv module writes them."""
    columns = [python_values(column) for column in batch.columns]
    for index, field in enumerate(batch.schema):
        write = to_json if pa.types.is_nested(field.type) else text_of if _is_binary(field.type) else None
        if write is not None:
            columns[index] = [None if value is None else write(value) for value in columns[index]]
    return columns


def _is_binary(kind: pa.DataType) -> bool:
    return any(is_so(kind) for is_so in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary))


def _writer(text: IO[str], dialect: Dialect) -> Any:
    # All strings are quoted: with minimal quoting, Python 3.11 leaves a lone carriage return bare, and a
    # column name that begins with U+FEFF would be taken for a byte-order mark.
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n"}
    return csv.writer(text, **(options | dialect.csv_options()))
