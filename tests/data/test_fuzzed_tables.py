"""Tables of any kind through reading and writing, against Python's csv and json modules and pyarrow.

``SHARCS_FUZZ=10000 pytest tests/data/test_fuzzed_tables.py`` tries so many, drawn anew.
"""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.fuzz import fuzzed
from sharcs.data.dialects import Dialect
from sharcs.data.tables import table_writer
from sharcs.data.texts import Columns
from sharcs.inference.stream import open_texts

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
ODD = ['"', '""', "\r", "\n", "\r\n", "\ufeff", "\ufeffx", "\u2028", "\x85", " ", "'", "NA"]
FIELDS = st.text(LETTERS, max_size=6) | st.sampled_from(ODD)
NAMES = st.lists(FIELDS, max_size=3, unique=True).map(lambda names: [name for name in names if name != "text"])
TEXTS = st.text(LETTERS, min_size=1, max_size=8).filter(lambda text: text.strip())
WINDOW = 2


def through(data, output, dialect):
    """Read a table as ``sharcs predict`` does, and write it with a column more."""
    stream = open_texts(str(data), Columns(), dialect)
    assert stream.pair is None
    count = stream.check()
    schema = pa.schema([*stream.table.schema, ("prediction.", pa.string())])
    with table_writer(output, schema, dialect=dialect) as write:
        for rows, _ in stream.windows(WINDOW):
            write(pa.Table.from_arrays([*rows.columns, pa.array(["good"] * rows.num_rows)], schema=schema))
    return count


@st.composite
def delimited(draw):
    """Make names, rows, and how they are written."""
    delimiter = draw(st.sampled_from([",", "\t", ";", "|", " ", "§"]))
    no_quotes = draw(st.booleans())
    encoding = draw(st.sampled_from([None, "utf-8", "utf-16-le", "cp1252"]))
    place = draw(st.integers(0, 1))

    def fits(field):
        if no_quotes and any(character in field for character in f"{delimiter}\r\n"):
            return False
        try:
            return bool(field.encode(encoding or "utf-8")) or not field
        except UnicodeEncodeError:
            return False

    names = [name for name in draw(NAMES) if fits(name) and name not in ("", "text_pair", "prediction.")]
    names.insert(min(place, len(names)), "text")
    columns = [(TEXTS if name == "text" else FIELDS).filter(fits) for name in names]
    rows = draw(st.lists(st.tuples(*columns), min_size=1, max_size=5))
    return names, [list(row) for row in rows], delimiter, no_quotes, encoding


@fuzzed(few=60)
@given(delimited(), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.sampled_from([".csv", ".tsv"]))
def test_any_csv_and_tsv_survives(tmp_path_factory, made, end, gzipped, suffix):
    names, rows, delimiter, no_quotes, encoding = made
    folder = tmp_path_factory.mktemp("csv")
    quoting = {"quoting": csv.QUOTE_NONE, "quotechar": None} if no_quotes else {"quoting": csv.QUOTE_ALL}
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, **quoting).writerows([names, *rows])
    mark = "\ufeff" if names[0].startswith("\ufeff") else ""  # the first one is taken for a byte-order mark
    raw = (mark + text.getvalue()).encode(encoding or "utf-8")
    name = f"rows{suffix}{'.gz' if gzipped else ''}"
    (folder / name).write_bytes(gzip.compress(raw) if gzipped else raw)
    dialect = Dialect(encoding, delimiter, no_quotes)
    assert through(folder / name, folder / f"out{suffix}", dialect) == len(rows)
    written = (folder / f"out{suffix}").read_bytes().decode("utf-8").removeprefix("\ufeff" if no_quotes else "")
    options = {"quoting": csv.QUOTE_NONE, "quotechar": None} if no_quotes else {}
    found = list(csv.reader(io.StringIO(written, newline=""), delimiter=delimiter, strict=True, **options))
    assert found == [[*names, "prediction."], *([*row, "good"] for row in rows)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@fuzzed(few=60)
@given(
    st.lists(st.tuples(TEXTS, st.dictionaries(FIELDS, JSON, max_size=3)), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([(", ", ": "), (",", ":"), (" ,\t", " : ")]),
)
def test_any_jsonl_survives_value_for_value(tmp_path_factory, made, ascii_only, separators):
    folder = tmp_path_factory.mktemp("jsonl")
    rows = [
        {key: value for key, value in {**more, "text": text}.items() if key != "text_pair"} for text, more in made
    ]
    lines = [json.dumps(row, ensure_ascii=ascii_only, separators=separators) for row in rows]
    (folder / "rows.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode())
    assert through(folder / "rows.jsonl", folder / "out.jsonl", Dialect()) == len(rows)
    found = (folder / "out.jsonl").read_bytes().decode().split("\n")
    assert found.pop() == ""
    whole = {"parse_float": str, "parse_int": str}
    expected = [{**json.loads(line, **whole), "prediction.": "good"} for line in lines]
    assert [json.loads(line, **whole) for line in found] == expected


TYPES = {
    "ints": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "small": (st.integers(0, 255), pa.uint8()),
    "large": (st.integers(0, 2**64 - 1), pa.uint64()),
    "floats": (st.floats(), pa.float64()),
    "half": (st.floats(width=32), pa.float32()),
    "flags": (st.booleans(), pa.bool_()),
    "bytes": (st.binary(max_size=5), pa.binary()),
    "days": (st.integers(-(2**31), 2**31 - 1), pa.date32()),
    "times": (st.integers(-(2**63), 2**63 - 1), pa.timestamp("us", "Europe/Berlin")),
    "places": (st.integers(-(2**63), 2**63 - 1), pa.timestamp("ns", "Nowhere/At_All")),
    "spans": (st.integers(-(2**63), 2**63 - 1), pa.duration("s")),
    "money": (st.decimals(-(10**6), 10**6, places=3), pa.decimal128(12, 3)),
    "lists": (st.lists(st.integers(0, 9) | st.none(), max_size=3), pa.list_(pa.int8())),
    "structs": (st.fixed_dictionaries({"a": st.text(LETTERS, max_size=3), "b": st.floats()}), None),
    "kinds": (st.sampled_from(["x", "y"]), pa.dictionary(pa.int8(), pa.string())),
    "large text": (st.text(LETTERS, max_size=4), pa.large_string()),
    "nothing": (st.none(), pa.null()),
}
TYPES["structs"] = (TYPES["structs"][0], pa.struct([("a", pa.string()), ("b", pa.float64())]))


@st.composite
def typed(draw):
    """Make a table with columns of several types, missing values among them."""
    count = draw(st.integers(1, 5))
    columns = {"text": pa.array(draw(st.lists(TEXTS, min_size=count, max_size=count)))}
    for name in draw(st.lists(st.sampled_from(sorted(TYPES)), max_size=4, unique=True)):
        values, kind = TYPES[name]
        drawn = draw(st.lists(values | st.none(), min_size=count, max_size=count))
        plain = pa.int32() if kind == pa.date32() else pa.int64() if pa.types.is_temporal(kind) else kind
        columns[name] = pa.array(drawn, plain).cast(kind) if plain != kind else pa.array(drawn, kind)
    return pa.table(columns)


@fuzzed(few=60)
@given(typed(), st.sampled_from([".parquet", ".jsonl", ".csv", ".tsv.gz"]))
@example(pa.table({"text": ["a"], "structs": [{"a": "b", "b": float("inf")}]}), ".jsonl")  # found by a long run
def test_any_parquet_survives(tmp_path_factory, table, suffix):
    folder = tmp_path_factory.mktemp("parquet")
    pq.write_table(table, folder / "rows.parquet")
    output = folder / f"out{suffix}"
    assert through(folder / "rows.parquet", output, Dialect()) == table.num_rows
    if suffix == ".parquet":
        found, before = pq.read_table(output), pq.read_table(folder / "rows.parquet")
        for name in table.column_names:
            assert found.schema.field(name) == before.schema.field(name)
            if name in ("floats", "half", "structs"):  # nan is unlike nan
                assert str(found.column(name).to_pylist()) == str(before.column(name).to_pylist())
            else:
                assert found.column(name).equals(before.column(name))
        return
    text = (gzip.decompress(output.read_bytes()) if suffix.endswith("gz") else output.read_bytes()).decode("utf-8")
    if suffix == ".jsonl":
        found = [json.loads(line, parse_constant=refuse) for line in text.split("\n")[:-1]]
    else:
        delimiter = "," if suffix == ".csv" else "\t"
        found = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    assert [row["text"] for row in found] == table.column("text").to_pylist()
    assert all(list(row) == [*table.column_names, "prediction."] for row in found)
    for name in {"ints", "small", "large", "flags", "large text"} & set(table.column_names):
        values = table.column(name).to_pylist()
        if suffix != ".jsonl":
            values = ["" if value is None else str(value) for value in values]
        assert [row[name] for row in found] == values


def refuse(constant):
    """Refuse what JSON has no word for."""
    raise AssertionError(f"{constant} is no JSON")
