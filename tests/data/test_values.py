"""Values that Python lacks, or text formats do: they come out as text, and cost nobody an answer."""

import base64
import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.cli import error_message, sharcs, succeeds, toys_fixture  # noqa: F401
from sharcs.data.tables import read_table

DAYS = 2932897  # from 1970-01-01 to 10000-01-01
ODD = {
    "date": (pa.array([0, DAYS], pa.date32()), ["1970-01-01", "10000-01-01"]),
    "time": (pa.array([1, 86400 * DAYS], pa.timestamp("s")), ["1970-01-01 00:00:01", "10000-01-01 00:00:00"]),
    "zone": (
        pa.array([0, 1], pa.timestamp("s", tz="Mars/Olympus")),
        ["1970-01-01 00:00:00+00:00", "1970-01-01 00:00:01+00:00"],
    ),
    "bytes": (pa.array([b"\xff\x00", "é".encode()], pa.binary()), ["/wA=", "w6k="]),
    "list": (pa.array([[0, None], [DAYS]], pa.list_(pa.date32())), [["1970-01-01", None], ["10000-01-01"]]),
    "object": (
        pa.array(
            [{"day": 0, "raw": b"\xff"}, {"day": DAYS, "raw": None}],
            pa.struct({"day": pa.date32(), "raw": pa.binary()}),
        ),
        [{"day": "1970-01-01", "raw": "/w=="}, {"day": "10000-01-01", "raw": None}],
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write labelled texts beside all odd columns."""
    columns = {"text": ["a fine film", "an awful plot"], "label": ["good", "bad"]}
    path = tmp_path_factory.mktemp("odd") / "odd.parquet"
    pq.write_table(pa.table(columns | {name: values for name, (values, _) in ODD.items()}), path)
    return path


def read(path):
    """Read rows with Python's own readers; nested values of CSV are JSON."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: json.loads(value) if value[:1] in ("[", "{") else value for name, value in row.items()} for row in rows
    ]


def in_seconds(value):
    """Leave out fractions of seconds, which Parquet adds."""
    return value.replace(".000", "") if isinstance(value, str) else value


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_predict_writes_odd_values_as_text(suffix, data, toys, tmp_path):
    output = tmp_path / f"out.{suffix}"
    succeeds("predict", toys.model, "--data", data, "--output", output)
    rows = read(output)
    for name, (_, expected) in ODD.items():
        assert [in_seconds(row[name]) for row in rows] == expected
    assert base64.b64decode(rows[1]["bytes"]).decode() == "é"


@pytest.mark.parametrize("group", ["date", "zone", "bytes"])
def test_odd_values_may_be_groups(group, data, toys, tmp_path):
    output = tmp_path / "page.html"
    succeeds("report", toys.model, "--data", data, "--output", output, "--group-column", group)
    assert ODD[group][1][0][:10] in output.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["train", "evaluate", "report"])
def test_odd_values_are_no_labels(command, data, toys, tmp_path):
    words = {
        "train": ("--model", toys.encoder, "--output", tmp_path / "model"),
        "evaluate": (toys.model,),
        "report": (toys.model, "--output", tmp_path / "page.html"),
    }[command]
    message = error_message(sharcs(command, *words, "--data", data, "--label-column", "date"))
    assert "the label column 'date' holds date32[day]; labels must be" in message


def test_a_tab_in_a_message_stays_one(toys, tmp_path):
    data = tmp_path / "bad.tsv"
    data.write_text('text\tid\n"a" b\t1\n')
    message = error_message(sharcs("predict", toys.model, "--data", data, "--output", tmp_path / "out.csv"))
    assert r"row 1 (line 2): '\t' expected after '\"'".replace('\\"', '"') in message


def test_a_quoted_field_that_may_be_several_rows_is_said(tmp_path):
    data = tmp_path / "films.tsv"
    data.write_text('text\tid\n"great movie\t1\nthe end"\t2\nlast\t3\n')
    with pytest.warns(UserWarning, match=r"films\.tsv: line 2: a quoted field holds a tab and a line end"):
        assert read_table(data).num_rows == 2


@pytest.mark.filterwarnings("error")
def test_line_ends_alone_are_nothing_to_speak_of(tmp_path):
    data = tmp_path / "films.tsv"
    data.write_text('text\tid\n"great movie\nthe end"\t2\nlast\t3\n')
    assert read_table(data).num_rows == 2


def test_columns_without_a_name(toys, tmp_path):
    data = tmp_path / "excel.csv"
    data.write_text("text,id,,\ngood,1,,\n")
    message = error_message(sharcs("predict", toys.model, "--data", data, "--output", tmp_path / "out.csv"))
    assert message == f"{data}: the header has columns without a name; name them, or remove empty ones at its end"


def test_a_pipe_is_refused_as_what_it_is(toys, tmp_path):
    message = error_message(sharcs("predict", toys.model, "--data", "/dev/null", "--output", tmp_path / "out.csv"))
    assert message.startswith("/dev/null: a pipe or a device, which can't be read twice; save it as a file")


def test_numbers_go_to_what_a_link_points_to(toys, tmp_path):
    (tmp_path / "link.json").symlink_to("numbers.json")
    succeeds("evaluate", toys.model, "--data", toys.test, "--json", tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "numbers.json").read_text())["samples"] == 40
