"""JSON lines: every value travels as its JSON text, so that what nobody asked for comes out as it went in."""

from __future__ import annotations

import json
import math
import re
from contextlib import closing
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from sharcs.data.files.textfiles import CHUNK_ROWS, in_chunks
from sharcs.data.values import python_values, text_of
from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharcs.data.files.textfiles import TextFile

# Marks a string column that holds JSON texts; null stands for a key that isn't there.
JSON_COLUMN = {b"sharcs": b"JSON texts"}

MISSING = (None, "null", "NaN")
"""How a value is missing: without its key, as null, or as pandas writes a missing string."""

OPENING = re.compile(r"\{[ \t\r\n]*")
COLON = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
BETWEEN = re.compile(r"[ \t\r\n]*(,[ \t\r\n]*|\})")

# Numbers are looked for but not converted: Python refuses an integer of more than 4,300 digits.
DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=text_of)


def json_schema(file: TextFile) -> pa.Schema:
    """Read a file through: its columns are all keys, in the order in which they first appear.

    Raises:
        InputError: If there is no row, or one is malformed; the message names row and line.
    """
    names: dict[str, None] = {}
    count = 0
    for row in _rows(file):
        names.update(dict.fromkeys(row))
        count += 1
    if not count:
        raise InputError(f"{file.path}: the file is empty, the table has no rows")
    for name in names:
        if string_of(json.dumps(name)) is None:
            raise InputError(f"{file.path}: the key {json.dumps(name)} has half a surrogate pair; rename it")
    return pa.schema([pa.field(name, pa.string(), metadata=JSON_COLUMN) for name in names])


def json_batches(file: TextFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read all rows, each value as its JSON text; errors are those of :func:`json_schema`."""
    for rows in in_chunks(_rows(file)):
        arrays = [pa.array([row.get(name) for row in rows], pa.string()) for name in schema.names]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def is_json(field: pa.Field) -> bool:
    """Tell whether a column holds JSON texts."""
    return (field.metadata or {}).items() >= JSON_COLUMN.items()


def string_of(value: str) -> str | None:
    """Decode the JSON text of a string; None for other values, and for half a surrogate pair, which is no text."""
    if not value.startswith('"'):
        return None
    text: str = json.loads(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return text


def as_strings(table: pa.Table) -> pa.Table:
    """Turn columns of JSON texts into ordinary ones: strings as they read, booleans as in Python, others as JSON."""
    for index, field in enumerate(table.schema):
        if is_json(field):
            plain = pa.array([_plain(value) for value in table.column(index).to_pylist()], pa.string())
            table = table.set_column(index, pa.field(field.name, pa.string()), plain)
    return table


def schema_as_strings(schema: pa.Schema) -> pa.Schema:
    """Say which columns :func:`as_strings` makes."""
    fields = [pa.field(field.name, pa.string()) if is_json(field) else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def write_jsonl(table: pa.Table, text: IO[str]) -> None:
    """Write an object a line; what was read as a JSON text is written as it stands, and not where it was not."""
    fields = [(to_json(field.name) + ": ", is_json(field)) for field in table.schema]
    for batch in table.to_batches(CHUNK_ROWS):
        for values in zip(*map(python_values, batch.columns), strict=True):
            members = [
                name + (value if as_it_is else to_json(value))
                for (name, as_it_is), value in zip(fields, values, strict=True)
                if value is not None or not as_it_is
            ]
            text.write(f"{{{', '.join(members)}}}\n")


def to_json(value: Any) -> str:
    """Encode a value; types that JSON lacks as text, dates and decimals as they read, bytes in base64.

    NaN and infinity, which it lacks as well, become null wherever they are.
    """
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: str | None) -> str | None:
    if value in MISSING:
        return None
    if value in ("true", "false"):
        return value.capitalize()
    text = string_of(value)
    return value if text is None else text


def _rows(file: TextFile) -> Iterator[dict[str, str]]:
    """Parse the lines, blank ones left out, into the JSON text of each key's value."""
    count = 0
    # U+2028 and the like may stand inside JSON strings, and do not end a row.
    with closing(file.lines(newline="\n")) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            count += 1
            where = f"{file.path}: row {count} (line {number})"
            try:
                row = _members(line.strip())
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{where}: not valid JSON ({first_line(error)}); give one object per line"
                ) from error
            if row is None:
                kind = type(json.loads(line)).__name__
                raise InputError(f"{where}: not a JSON object but {kind}; give one object per line")
            yield row


def _members(line: str) -> dict[str, str] | None:
    """Split a JSON object into its keys and the JSON texts of their values; None for another JSON value.

    Raises:
        ValueError: If it is not valid JSON.
        RecursionError: If it is nested too deeply.
    """
    opening = OPENING.match(line)
    if opening is None:
        json.loads(line)
        return None
    members: dict[str, str] = {}
    position = opening.end()
    ended = line.startswith("}", position)
    while not ended:
        key, behind_key = DECODER.raw_decode(line, position)
        colon = COLON.match(line, behind_key)
        if colon is None or line[position] != '"':
            raise ValueError(f"no key with a colon at character {position + 1}")
        if key in members:
            raise ValueError("a key is there twice")
        _, end = DECODER.raw_decode(line, colon.end())
        members[key] = line[colon.end() : end]
        following = BETWEEN.match(line, end)
        if following is None:
            raise ValueError(f"no ',' or '}}' at character {end + 1}")
        ended = following[1] == "}"
        position = following.start(1) if ended else following.end()
    if position + 1 != len(line):
        raise ValueError(f"more than an object, from character {position + 2}")
    return members
