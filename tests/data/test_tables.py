"""Reading and writing tables, against Python's csv and json modules, pandas, and files written by hand."""

import codecs
import csv
import gzip
import json
import os
import stat
import time
import warnings

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharcs.data import tables
from sharcs.data.dialects import Dialect
from sharcs.data.tables import check_output_path, open_table, read_table, table_writer, write_table
from sharcs.errors import InputError

EXTENSIONS = [f"{suffix}{gz}" for suffix in (".csv", ".tsv", ".jsonl", ".parquet") for gz in ("", ".gz")]
AWKWARD = [
    "plain",
    'a "quote"',
    "two\nlines",
    "cr\rhere",
    "crlf\r\nhere",
    "  lead",
    "a,b\tc",
    "é😀\u2028x",
    '"',
    "",
    "NA",
]

# Whatever a UTF-8 file can hold; NUL is refused on reading.
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def refuses(source, *parts):
    """Assert that reading fails in one line that starts with the source and has all ``parts``."""
    with pytest.raises(InputError) as caught:
        read_table(source)
    message = str(caught.value)
    assert message.startswith(f"{source}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


# Reading text tables


@pytest.mark.parametrize(("suffix", "dialect"), [(".csv", "excel"), (".tsv", "excel-tab")])
@pytest.mark.parametrize("terminator", ["\n", "\r\n"])
def test_reads_what_pythons_csv_module_writes(tmp_path, suffix, dialect, terminator):
    path = tmp_path / f"t{suffix}"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, dialect, lineterminator=terminator, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "label"])
        writer.writerows([[value, "x"] for value in AWKWARD])
    assert read_table(str(path)).to_pydict() == {"text": AWKWARD, "label": ["x"] * len(AWKWARD)}


def test_no_value_is_interpreted(tmp_path):
    source = write(tmp_path / "t.csv", "text,label\n007,NA\nnull,true\n,1.0\n nan ,2020-01-01\n")
    table = read_table(source)
    assert table.schema.types == [pa.string(), pa.string()]
    assert table.to_pydict() == {
        "text": ["007", "null", "", " nan "],
        "label": ["NA", "true", "1.0", "2020-01-01"],
    }
    assert table.to_pydict() == pandas.read_csv(source, dtype=str, keep_default_na=False).to_dict("list")


@pytest.mark.parametrize(
    "content",
    [
        "text,label\nnaïve,1\n".encode(),
        codecs.BOM_UTF8 + "text,label\nnaïve,1\n".encode(),
        "text,label\nnaïve,1\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "text,label\r\nnaïve,1\r\n".encode("utf-16-be"),
        b"text,label\r\n\r\nna\xc3\xafve,1",
    ],
)
def test_encodings_that_need_no_guess(tmp_path, content):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_table(write(tmp_path / "t.csv", content))
    assert table.to_pydict() == {"text": ["naïve"], "label": ["1"]}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".csv.gz"])
@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (b"ok\r\ncaf\xe9,2\n", "line 3: the byte 0xe9 is not valid UTF-8; "),
        (b"ok\n\n" * 50_000 + b"caf\xc3\xa9 \xff\n", "line 100002: the byte 0xff is not valid UTF-8"),
        (b"ok\ncut off \xc3", "line 3: the byte 0xc3 is not valid UTF-8"),
    ],
)
def test_other_encodings_are_refused_and_never_guessed(tmp_path, suffix, rows, part):
    content = b"text\n" + rows
    if "jsonl" in suffix:
        lines = content.replace(b"\r\n", b"\n").split(b"\n")
        content = b"\n".join(b'{"text": "' + line + b'"}' if line else b"" for line in lines)
    source = write(tmp_path / f"t{suffix}", gzip.compress(content) if "gz" in suffix else content)
    refuses(source, part, "give the file's encoding, like cp1252, or save it as UTF-8")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "“café” €"),
        ("cp1251", "и ещё"),
        ("shift-jis", "日本語、ソ"),
        ("utf-16-be", "é"),
        ("utf-16", "é"),
        ("UTF8", "é"),
        ("utf-8-sig", "é"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_encoding_that_is_given_is_used(tmp_path, encoding, text, suffix):
    content = f"text\n{text}\n" if suffix == ".csv" else json.dumps({"text": text}, ensure_ascii=False)
    source = write(tmp_path / f"t{suffix}", content.encode(encoding))
    assert read_table(source, Dialect(encoding)).to_pydict() == {"text": [text]}


def test_a_mark_is_skipped_where_its_encoding_is_given(tmp_path):
    source = write(tmp_path / "t.csv", codecs.BOM_UTF8 + "text\né\n".encode())
    assert read_table(source, Dialect("utf-8")).to_pydict() == {"text": ["é"]}
    source = write(tmp_path / "u.csv", codecs.BOM_UTF16_LE + "text\né\n".encode("utf-16-le"))
    assert read_table(source, Dialect("utf_16_le")).to_pydict() == {"text": ["é"]}


@pytest.mark.parametrize("encoding", ["no-such", "base64", "a\0"])
def test_unknown_encodings(tmp_path, encoding):
    source = write(tmp_path / "t.csv", b"text\na\n")
    with pytest.raises(InputError, match=r"t\.csv: .* is no encoding; give the file's encoding, like cp1252"):
        read_table(source, Dialect(encoding))
    with pytest.raises(InputError, match="line 2: the byte 0xe9 is not valid ASCII"):
        read_table(write(tmp_path / "u.csv", b"text\n\xe9\n"), Dialect("ascii"))


def test_broken_utf16_and_nul_are_refused(tmp_path):
    refuses(write(tmp_path / "a.csv", codecs.BOM_UTF16_LE + b"a\x00\x00"), "not valid UTF-16")
    refuses(write(tmp_path / "b.csv", b"text,label\na,1\nb\0c,2\n"), "line 3 has a NUL byte")
    refuses(write(tmp_path / "c.jsonl", '{"text": "a"}'.encode("utf-16-le")), "line 1 has a NUL byte")


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("a,1\nb,1,2\n", "row 2 (line 3): 3 fields, but the header has 2"),
        ("a,1\n\nb\n", "row 2 (line 4): 1 fields, but the header has 2"),
        ('"a\nb",1\nc,"2\nd,3\n', "row 2 (line 4): unexpected end of data"),
        ('a,1\n"b"c,1\n', "row 2 (line 3): ',' expected after '\"'"),
    ],
)
def test_malformed_csv_names_the_row(tmp_path, rows, part):
    refuses(write(tmp_path / "t.csv", "text,label\n" + rows), part)


def test_malformed_header_is_named(tmp_path):
    refuses(write(tmp_path / "t.csv", '"text,label\n'), "the header (line 1): unexpected end of data")


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ('{"text": "a"}\n\n{"text": \n', "row 2 (line 3): not valid JSON"),
        ('{"text": "a"}\n["b"]\n', "row 2 (line 2): not a JSON object but list"),
        ('{"text": "a"}\n"b"\n', "row 2 (line 2): not a JSON object but str"),
        (
            '{"text": "a"}\n{"text": "b", "text": "c"}\n',
            "row 2 (line 2): not valid JSON (a key is there twice)",
        ),
        ("[" * 100_000 + "\n", "row 1 (line 1): not valid JSON"),
        ('{"text": "a"}\n{"text": "b",}\n', "row 2 (line 2): not valid JSON"),
        ('{"text": "a"}\n{"text" "b"}\n', "row 2 (line 2): not valid JSON (no key with a colon at character 2)"),
        ('{"text": "a"}\n{3: "b"}\n', "row 2 (line 2): not valid JSON (no key with a colon at character 2)"),
        ('{"text": "a"}\n{"text": "b" "c": 1}\n', "row 2 (line 2): not valid JSON (no ',' or '}' at character 13)"),
        ('{"text": "a"} 1\n', "row 1 (line 1): not valid JSON (more than an object, from character 14)"),
        ('{"text": "a"}}\n', "row 1 (line 1): not valid JSON (more than an object, from character 14)"),
        ('{"text": "a", "n": [1, tru]}\n', "row 1 (line 1): not valid JSON"),
        ('{"text": "a", "\\ud800": 1}\n', 'the key "\\ud800" has half a surrogate pair; rename it'),
        ("1\n", "row 1 (line 1): not a JSON object but int"),
        ("{}\n{}\n", "the table has no columns"),
    ],
)
def test_malformed_jsonl_names_the_row(tmp_path, rows, part):
    refuses(write(tmp_path / "t.jsonl", rows), part)


def test_values_of_jsonl_become_strings_and_absent_keys_are_missing(tmp_path):
    rows = [
        {"text": "a\u2028b", "label": 3, "score": 0.5, "tags": ["x"], "ok": True},
        {"label": 4, "extra": {"k": 1}, "score": None},
    ]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    table = read_table(write(tmp_path / "t.jsonl", content))
    assert table.column_names == ["text", "label", "score", "tags", "ok", "extra"]
    assert table.to_pylist() == [
        {"text": "a\u2028b", "label": "3", "score": "0.5", "tags": '["x"]', "ok": "True", "extra": None},
        {"text": None, "label": "4", "score": None, "tags": None, "ok": None, "extra": '{"k": 1}'},
    ]


def test_nan_among_strings_is_a_missing_string(tmp_path):
    table = read_table(write(tmp_path / "t.jsonl", '{"text": NaN, "x": NaN}\n{"text": "b", "x": 1.5}\n'))
    assert table.to_pydict() == {"text": [None, "b"], "x": [None, "1.5"]}


# What the library copies from JSON lines to JSON lines

JSON_VALUES = [
    *("9223372036854775808", "1" * 5000, "1", "2.5", "1.0", "-0", "1E400", "true", "null", "NaN", "-Infinity"),
    *('"A8"', '"x"', r'"\ud800"', r'"caf\u00e9"', '"é\u2028"'),
    *('{"a":1}', '{"a": 1, "b":null}', '[1,"a"]', '{"a":1,"a":2}', "[[ ]]"),
]


def copied(stream, path):
    """Write a stream's batches to a file, and return its lines."""
    with table_writer(path, stream.schema) as write_rows:
        for batch in stream.batches():
            write_rows(pa.Table.from_batches([batch]))
    return path.read_bytes().decode("utf-8").split("\n")[:-1]


def test_jsonl_comes_out_as_it_went_in(tmp_path):
    """Also values of several types in one column, and rows that lack a key."""
    lines = [f'{{"text": "a", "id": {value}}}' for value in JSON_VALUES] + [
        '{"text": "b"}',
        "{}",
        '{"meta": {}, "id": 1}',
    ]
    stream = open_table(write(tmp_path / "t.jsonl", "\n".join(lines)))
    assert stream.schema.names == ["text", "id", "meta"]
    expected = [*lines[:-1], '{"id": 1, "meta": {}}']
    assert copied(stream, tmp_path / "out.jsonl") == expected


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_jsonl_goes_into_other_formats_as_strings(tmp_path, suffix):
    source = write(tmp_path / "t.jsonl", "\n".join(f'{{"x": {value}}}' for value in [*JSON_VALUES, '"é"']))
    stream, path = open_table(source), tmp_path / f"out{suffix}"
    with table_writer(path, stream.schema) as write_rows:
        for batch in stream.batches():
            write_rows(pa.Table.from_batches([batch]))
    strings = {'"A8"': "A8", '"x"': "x", r'"caf\u00e9"': "café", '"é\u2028"': "é\u2028", "true": "True", '"é"': "é"}
    missing = "" if suffix == ".csv" else None
    expected = [missing if v in ("null", "NaN") else strings.get(v, v) for v in [*JSON_VALUES, '"é"']]
    table = read_table(str(path))
    assert table.schema == pa.schema([("x", pa.string())])
    assert table["x"].to_pylist() == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.dictionaries(cells, json_values, min_size=1, max_size=4), min_size=1, max_size=5),
    indent=st.sampled_from([(", ", ": "), (",", ":"), (" ,\t", " :\r ")]),
    ascii_only=st.booleans(),
)
def test_any_jsonl_survives(tmp_path_factory, rows, indent, ascii_only):
    folder = tmp_path_factory.mktemp("t")
    lines = [json.dumps(row, separators=indent, ensure_ascii=ascii_only) for row in rows]
    stream = open_table(write(folder / "t.jsonl", "\n".join(lines).encode("utf-8", "surrogatepass")))
    again = [json.loads(line) for line in copied(stream, folder / "out.jsonl")]
    assert repr([sorted(row.items()) for row in again]) == repr([sorted(row.items()) for row in rows])


def test_objects_with_keys_of_their_own_take_linear_time(tmp_path):
    """300 rows took a minute once, and got every key of every row."""
    lines = [json.dumps({"text": "good", "votes": {f"user{i}": 1}}) for i in range(20_000)]
    start = time.process_time()
    assert copied(open_table(write(tmp_path / "map.jsonl", "\n".join(lines))), tmp_path / "o.jsonl") == lines
    assert time.process_time() - start < 6


def test_fields_may_be_long(tmp_path):
    limit = csv.field_size_limit()
    long = "x" * 10_000_000
    source = write(tmp_path / "t.csv", f"text,label\n{long},1\n")
    assert read_table(source)["text"].to_pylist() == [long]
    assert csv.field_size_limit() == limit


def test_many_rows_are_quick_and_in_order(tmp_path):
    count = 200_000
    source = write(tmp_path / "t.csv", "text,label\n" + "".join(f"row {i},{i % 3}\n" for i in range(count)))
    start = time.process_time()
    table = read_table(source)
    assert time.process_time() - start < 6  # so that a million takes less than 30 s
    assert table["text"].to_pylist() == [f"row {i}" for i in range(count)]


# Reading Parquet


def test_parquet_is_kept_as_it_is(tmp_path):
    directory = tmp_path / "label=other"  # which is not a column
    directory.mkdir()
    frame = pandas.DataFrame({"text": ["a", None], "n": [1.5, float("nan")], "c": pandas.Categorical(["x", "y"])})
    frame.to_parquet(directory / "t.parquet")
    table = read_table(str(directory / "t.parquet"))
    assert table.column_names == ["text", "n", "c"]
    pandas.testing.assert_frame_equal(table.to_pandas(), frame)


def test_broken_parquet_and_gzip(tmp_path):
    refuses(write(tmp_path / "t.parquet", b"PAR1 not really"), "not a readable Parquet file")
    refuses(write(tmp_path / "t.csv.gz", b"text,label\na,1\n"), "cannot be read")
    refuses(write(tmp_path / "u.csv.gz", gzip.compress(b"text,label\na,1\n")[:-9]), "cannot be read")


# What is no table


@pytest.mark.parametrize("name", ["t.csv", "t.tsv.gz", "t.jsonl", "t.parquet"])
def test_empty_files(tmp_path, name):
    refuses(write(tmp_path / name, gzip.compress(b"") if name.endswith(".gz") else b""), "has no rows")


def test_header_only_and_blank_files(tmp_path):
    refuses(write(tmp_path / "t.csv", "text,label\n"), "has no rows")
    refuses(write(tmp_path / "u.csv", "\n\n"), "has no rows")
    refuses(write(tmp_path / "u.jsonl", "\n \n"), "has no rows")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "t.parquet")
    refuses(str(tmp_path / "t.parquet"), "has no rows")


def test_duplicate_columns(tmp_path):
    refuses(write(tmp_path / "t.csv", "text,label,text\na,b,c\n"), "the column 'text' is there more than once")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    pq.write_table(table, tmp_path / "t.parquet")
    refuses(str(tmp_path / "t.parquet"), "the column 'x' is there more than once")


def test_wrong_paths(tmp_path):
    refuses(str(tmp_path / "no.csv"), "no such file")
    refuses(str(tmp_path), "a directory; give one file (.csv, .tsv, .jsonl, .parquet, each also with .gz or .zst)")
    refuses(write(tmp_path / "t.xlsx", b"x"), "unknown extension; supported are .csv, .tsv, .jsonl, .parquet")
    refuses(write(tmp_path / "t.gz", b"x"), "unknown extension")
    refuses("reuters-r8", "no such file", "NAME:SPLIT (reuters-r8, reuters-r52, 20newsgroups are built in)")
    refuses("reuters-r8:dev", "has no split 'dev'; it has train, test")


def test_a_file_wins_over_a_built_in_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "reuters-r8:train", "text,label\na,b\n")
    refuses("reuters-r8:train", "unknown extension")  # so it was the file that was looked at
    write(tmp_path / "owner:data.CSV", "text,label\na,b\n")
    assert read_table("owner:data.CSV").num_rows == 1


# Writing


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(cells, min_size=1, max_size=3, unique=True),
    data=st.data(),
    extension=st.sampled_from(EXTENSIONS),
)
def test_strings_survive_every_format(tmp_path_factory, names, data, extension):
    rows = data.draw(st.lists(st.tuples(*[cells] * len(names)), min_size=1, max_size=5))
    table = pa.table({name: pa.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    path = tmp_path_factory.mktemp("t") / f"t{extension}"
    write_table(table, path)
    again = read_table(str(path))
    assert again.equals(table)
    write_table(again, path)
    assert read_table(str(path)).equals(table)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_other_readers_read_what_is_written(tmp_path, extension):
    path = tmp_path / f"t{extension}"
    write_table(pa.table({"text": AWKWARD, "n": list(range(len(AWKWARD)))}), path)
    if ".parquet" in extension:
        frame = pandas.read_parquet(
            pa.BufferReader(gzip.decompress(path.read_bytes())) if "gz" in extension else path
        )
    elif ".jsonl" in extension:
        lines = (gzip.decompress(path.read_bytes()) if "gz" in extension else path.read_bytes()).decode().split("\n")
        frame = pandas.DataFrame([json.loads(line) for line in lines[:-1]])
    else:
        opener = gzip.open if "gz" in extension else open
        with opener(path, "rt", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if ".tsv" in extension else ","))
        frame = pandas.DataFrame(rows).astype({"n": int})
    assert frame.to_dict("list") == {"text": AWKWARD, "n": list(range(len(AWKWARD)))}


def test_values_that_text_formats_lack(tmp_path):
    table = pa.table({"s": ["a", None], "x": [0.1, float("nan")], "l": [["é", "2"], None], "b": [True, False]})
    write_table(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == '"s","x","l","b"\n"a",0.1,"[""é"", ""2""]",True\n"",nan,"",False\n'
    write_table(table, tmp_path / "t.jsonl")
    assert "é" in (tmp_path / "t.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "t.jsonl").open()]
    assert rows == [
        {"s": "a", "x": 0.1, "l": ["é", "2"], "b": True},
        {"s": None, "x": None, "l": None, "b": False},
    ]


@pytest.mark.parametrize("extension", [".jsonl", ".csv"])
def test_nested_numbers_that_json_lacks_are_null(tmp_path, extension):
    odd = [{"a": float("inf"), "b": [1.5, float("nan")]}, {"a": -1.0, "b": [float("-inf")]}]
    write_table(pa.table({"s": odd}), tmp_path / f"t{extension}")
    with (tmp_path / f"t{extension}").open(newline="", encoding="utf-8") as file:
        if extension == ".csv":
            found = [json.loads(row["s"], parse_constant=pytest.fail) for row in csv.DictReader(file)]
        else:
            found = [json.loads(line, parse_constant=pytest.fail)["s"] for line in file]
    assert found == [{"a": None, "b": [1.5, None]}, {"a": -1.0, "b": [None]}]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("old")

    def interrupted(table, text, delimiter):
        text.write("half")
        text.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "write_delimited", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_table(pa.table({"a": ["1"]}), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["t.csv"]


def test_a_full_disk_is_an_input_error(tmp_path, monkeypatch):
    def full(table, text, delimiter):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "write_delimited", full)
    with pytest.raises(InputError, match=r"t\.csv: cannot be written .*No space left"):
        write_table(pa.table({"a": ["1"]}), tmp_path / "t.csv")
    assert os.listdir(tmp_path) == []


def test_permissions_and_links_are_kept(tmp_path):
    table = pa.table({"a": ["1"]})
    target, link = tmp_path / "t.csv", tmp_path / "link.csv"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_table(table, link)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert read_table(str(target)).equals(table)


def test_gzip_files_hold_no_name_and_time(tmp_path):
    write_table(pa.table({"a": ["1"]}), tmp_path / "t.csv.gz")
    # RFC 1952: no flags (a name would set one), then four bytes of time.
    assert (tmp_path / "t.csv.gz").read_bytes()[3:8] == bytes(5)


@pytest.mark.parametrize("check", [check_output_path, lambda path: write_table(pa.table({"a": ["1"]}), path)])
def test_paths_that_cannot_be_written(tmp_path, check, monkeypatch):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match=r"t\.txt: unknown extension; supported are \.csv, \.tsv"):
        check(tmp_path / "t.txt")
    with pytest.raises(InputError, match=r"d\.csv: a directory"):
        check(tmp_path / "d.csv")
    with pytest.raises(InputError, match=r"no/t\.csv: the directory .*no does not exist; create it first"):
        check(tmp_path / "no" / "t.csv")
    monkeypatch.setattr(os, "access", lambda *args: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(InputError, match=r"t\.csv: the directory .* is not writable"):
        check(tmp_path / "t.csv")


def test_check_output_path_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_output_path("t.csv")
    check_output_path(tmp_path / "t.jsonl.gz")
    assert os.listdir(tmp_path) == []
