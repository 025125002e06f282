"""Directories of answers in one process: against plain ``sharcs predict``, and gone on with after a stop."""

import csv
import gzip
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.cli import error_message, files_in, read_csv, sharcs, succeeds, write_csv
from helpers.units import Small
from records.make import HERE, ROWS
from sharcs.inference import predict as prediction
from sharcs.inference.engine import InferenceEngine
from sharcs.units import plan as planning

MODEL = HERE / "plus-2"


@pytest.fixture
def small(monkeypatch):
    """Answer windows of four rows, and units of two windows."""
    monkeypatch.setattr(prediction, "InferenceEngine", Small)
    monkeypatch.setattr(planning, "LEAST_WINDOWS", 2)


def rows_of(count):
    return read_csv(ROWS)[:count]


def fill(data, output, *options, model=MODEL):
    """Write the command that fills a directory in one process."""
    return ("predict", model, "--data", data, "--output", output, "--workers", 1, *options)


def outputs(folder):
    """Read what a user finds in a directory, without what is ours."""
    return {name: content for name, content in files_in(folder).items() if not name.startswith("_") and content}


def write_all(folder, rows):
    """Write rows as four files of four formats, by other libraries' writers."""
    folder.mkdir()
    write_csv(folder / "a.csv", rows[:21])
    write_csv(folder / "b.tsv", rows[21:30], "\t")
    lines = "".join(json.dumps(row) + "\n" for row in rows[30:47])
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "below").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[47:60]), folder / "below" / "d.parquet", row_group_size=5)
    return folder


def test_units_laid_end_to_end_are_what_one_file_has(small, tmp_path):
    data = write_csv(tmp_path / "data.csv", rows_of(45))
    succeeds("predict", MODEL, "--data", data, "--output", tmp_path / "whole.csv", "--scores")
    message = succeeds(*fill(data, tmp_path / "out", "--scores")).err
    assert f"45 rows of 1 files are in {tmp_path / 'out'} (6 units)" in message
    found = outputs(tmp_path / "out")
    assert list(found) == [f"data-{number:05d}.csv" for number in range(6)]
    header, _, _ = (tmp_path / "whole.csv").read_bytes().partition(b"\n")
    bodies = [content.removeprefix(header + b"\n") for content in found.values()]
    assert header + b"\n" + b"".join(bodies) == (tmp_path / "whole.csv").read_bytes()
    assert [body.count(b"\n") for body in bodies] == [8, 8, 8, 8, 8, 5]


def test_every_format_is_written_as_it_came_and_as_by_itself(tmp_path):
    data = write_all(tmp_path / "data", rows_of(60))
    (data / "_hidden.csv").write_text("no table")
    (data / ".hidden.csv").write_text("no table")
    (data / "notes.md").write_text("no table")
    succeeds(*fill(data, tmp_path / "out"))
    found = outputs(tmp_path / "out")
    assert sorted(found) == ["a.csv", "b.tsv", "below/d.parquet", "c.jsonl.gz"]
    for name, content in found.items():
        alone = tmp_path / name.replace("/", "-")
        succeeds("predict", MODEL, "--data", data / name, "--output", alone)
        assert alone.read_bytes() == content


def test_patterns_and_names_given_twice_are_taken_once(tmp_path):
    data = write_all(tmp_path / "data", rows_of(60))
    options = ("--data", data / "b.tsv", "--data", data / "*.tsv")
    message = succeeds(*fill(data / "*.csv", tmp_path / "out", *options)).err
    assert "30 rows of 2 files" in message
    assert sorted(outputs(tmp_path / "out")) == ["a.csv", "b.tsv"]


def interrupted(monkeypatch, command, units):
    """Run a command and stop it by Ctrl-C when so many windows are answered."""
    run, asked = Small._answer, []

    def counted(self, read):
        if len(asked) == 2 * units + 1:
            raise KeyboardInterrupt
        asked.append(1)
        return run(self, read)

    with monkeypatch.context() as patch:
        patch.setattr(Small, "_answer", counted)
        stopped = sharcs(*command)
    assert stopped.code == 130
    assert "the same command does the units that are left" in stopped.err


def test_a_rerun_goes_on_and_a_complete_one_says_so(small, tmp_path, monkeypatch):
    data = write_csv(tmp_path / "data.csv", rows_of(45))
    succeeds(*fill(data, tmp_path / "whole"))
    command = fill(data, tmp_path / "out")
    interrupted(monkeypatch, command, units=3)
    assert len(outputs(tmp_path / "out")) == 3
    assert not [name for name in files_in(tmp_path / "out") if "partial" in name]
    run, asked = Small._answer, []
    monkeypatch.setattr(Small, "_answer", lambda self, read: asked.append(1) or run(self, read))
    assert "; 3 of the units were done before" in succeeds(*command).err
    assert len(asked) == 6  # two windows in each of three units
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")
    assert "; all was done before" in succeeds(*command).err
    assert len(asked) == 6
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def test_an_output_without_its_record_is_written_again(small, tmp_path):
    data = write_csv(tmp_path / "data.csv", rows_of(20))
    command = fill(data, tmp_path / "out")
    succeeds(*command)
    whole = files_in(tmp_path / "out")
    (tmp_path / "out" / "_sharcs" / "done-000001.json").unlink()
    (tmp_path / "out" / "data-00001.csv").write_text("half")
    (tmp_path / "out" / ".data-00001.csv.host-1.partial").write_text("of a killed process")
    assert "; 2 of the units were done before" in succeeds(*command).err
    assert files_in(tmp_path / "out") == whole


def test_an_output_that_was_taken_away_is_written_again(small, tmp_path):
    command = fill(write_csv(tmp_path / "data.csv", rows_of(20)), tmp_path / "out")
    succeeds(*command)
    whole = files_in(tmp_path / "out")
    (tmp_path / "out" / "data-00001.csv").unlink()
    (tmp_path / "out" / "_sharcs" / "done-000099.json").write_text("{}")  # nobody's
    (tmp_path / "out" / "_sharcs" / "done-x.json").write_text("{}")
    assert "are in" in (said := succeeds(*command).err)
    assert "(3 units); 2 of the units were done before" in said
    found = files_in(tmp_path / "out")
    assert {name: found[name] for name in whole} == whole


@pytest.mark.parametrize("name", ["manifest.json", "done-000000.json"])
@pytest.mark.parametrize("content", [b"\xff", b"{", b"[]", b"{}", b'{"rows": "2"}', b'{"rows": 2, "checks": {}}'])
def test_a_damaged_record_is_one_line(tmp_path, name, content):
    command = fill(write_csv(tmp_path / "data.csv", rows_of(2)), tmp_path / "out")
    succeeds(*command)
    (tmp_path / "out" / "_sharcs" / name).write_bytes(content)
    message = error_message(sharcs(*command))
    assert message.startswith(f"{tmp_path / 'out'}/_sharcs/{name}: ")
    assert message.endswith("; name another output")


@pytest.fixture
def gaps(tmp_path):
    """Write 20 rows, of which the rows 4, 9 to 16 and 20 have no text: one whole unit among them."""
    rows = rows_of(20)
    without = [3, *range(8, 16), 19]
    for number in without:
        rows[number] = rows[number] | {"text": " " if number % 2 else ""}
    return write_csv(tmp_path / "data.csv", rows), rows, without


def test_a_row_without_a_text_stops_at_its_unit(small, gaps, tmp_path):
    rows = rows_of(30)
    rows[20] = rows[20] | {"text": ""}
    data = write_csv(tmp_path / "data.csv", rows)
    command = fill(data, tmp_path / "out")
    message = error_message(sharcs(*command))
    assert message == f"{data}: row 21: the text is empty (column 'text'); fill it in or drop the row"
    assert sorted(outputs(tmp_path / "out")) == ["data-00000.csv", "data-00001.csv"]
    assert "; 2 of the units were done before" in succeeds(*command, "--on-error", "skip").err


@pytest.mark.parametrize("on_error", ["keep", "skip"])
def test_rows_without_a_text_are_kept_without_an_answer_or_left_out(small, gaps, tmp_path, on_error):
    data, rows, without = gaps
    message = succeeds(*fill(data, tmp_path / "out", "--on-error", on_error)).err
    assert "20 rows of 1 files" in message
    assert f"; {len(without)} rows had no text" in message
    found = [row for name in sorted(outputs(tmp_path / "out")) for row in read_csv(tmp_path / "out" / name)]
    answered = [row for number, row in enumerate(rows) if number not in without]
    succeeds(
        "predict", MODEL, "--data", write_csv(tmp_path / "good.csv", answered), "--output", tmp_path / "good-out.csv"
    )
    expected = iter(read_csv(tmp_path / "good-out.csv"))
    empty = {"prediction": "", "score": "", "width": ""}
    wanted = [
        row | empty if number in without else next(expected)
        for number, row in enumerate(rows)
        if on_error == "keep" or number not in without
    ]
    for one, other in zip(found, wanted, strict=True):
        assert float(one.pop("score") or 0) == pytest.approx(float(other.pop("score") or 0), abs=1e-5)
        assert one == other
    other = "skip" if on_error == "keep" else "keep"
    assert f"--on-error {other}: rows without a text were treated by {on_error} before" in error_message(
        sharcs(*fill(data, tmp_path / "out", "--on-error", other))
    )


def change_data(data, model):
    data.write_text(data.read_text().replace("film", "firm"))


def touch_data(data, model):
    os.utime(data, (0, 0))


def add_data(data, model):
    shutil.copy(data, data.with_name("more.csv"))


def change_model(data, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"policy": {"cost_weight": 0.0}}))


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (change_data, (), "with another data.csv, which has been written since"),
        (touch_data, (), "with another data.csv, which has been written since"),
        (add_data, (), "without more.csv among the data"),
        (change_model, (), "with another model"),
        (None, ("--width", 1), "with another width"),
        (None, ("--scores",), "with another scores"),
        (None, ("--text-column", "label"), "with another columns"),
        (None, ("--encoding", "cp1252"), "with another encoding"),
    ],
)
def test_another_plan_is_refused(tmp_path, change, options, says):
    (tmp_path / "data").mkdir()
    data = write_csv(tmp_path / "data" / "data.csv", rows_of(9))
    model = shutil.copytree(MODEL, tmp_path / "model")
    command = fill(data.parent, tmp_path / "out", model=model)
    succeeds(*command)
    if change is not None:
        change(data, model)
    before = files_in(tmp_path / "out")
    assert error_message(sharcs(*command, *options)) == (
        f"--output {tmp_path / 'out'}: was begun {says}; name another output, or give what it was begun with"
    )
    assert files_in(tmp_path / "out") == before


def test_data_that_was_moved_is_the_same(small, tmp_path):
    data = write_csv(tmp_path / "data.csv", rows_of(20))
    succeeds(*fill(data, tmp_path / "out"))
    (tmp_path / "moved").mkdir()
    shutil.move(data, tmp_path / "moved")
    assert "; all was done before" in succeeds(*fill(tmp_path / "moved" / "data.csv", tmp_path / "out")).err


def test_shards_do_each_unit_once_and_what_one_process_does(small, tmp_path):
    data = write_all(tmp_path / "data", rows_of(60))
    succeeds(*fill(data, tmp_path / "whole"))
    before = set()
    for part in range(3):
        message = succeeds(*fill(data, tmp_path / "out", "--shard", f"{part}/3")).err
        found = set(outputs(tmp_path / "out"))
        assert f"shard {part}/3: " in message
        assert f"of all shards, {len(found)} of 10 units are done" in message
        assert len(found - before) in (3, 4)
        before = found
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def test_files_without_rows_have_outputs_without_rows(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("text,label\n")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "b.parquet")
    write_csv(folder / "c.csv", rows_of(3))
    succeeds(*fill(folder, tmp_path / "out"))
    assert (tmp_path / "out" / "a.csv").read_text() == '"text","label","prediction","score","width"\n'
    assert pq.read_table(tmp_path / "out" / "b.parquet").num_rows == 0
    assert len(read_csv(tmp_path / "out" / "c.csv")) == 3


def nothing(folder):
    """Leave all as it is."""


def mine(folder):
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("mine")


REFUSED = [
    # data, output, options, what is there, what is said
    ("data.csv", "out", (), mine, "--output out: is in use; name a new directory"),
    ("data.csv", ".", (), nothing, "--output .: "),
    ("data.csv", "out.csv", ("--shard", "0/2"), nothing, "--shard: is for a directory as output, and out.csv is a"),
    ("data.csv", "out.csv", ("--ray", "auto"), nothing, "--ray: is for a directory"),
    ("data.csv", "out", ("--ray", "cluster"), nothing, "--ray cluster: has to be HOST:PORT, or auto"),
    # Ray is not installed, or is, and nobody listens there.
    ("data.csv", "out", ("--ray", "127.0.0.1:9"), nothing, "--ray 127.0.0.1:9: "),
    ("data.csv", "out.csv", ("--on-error", "keep"), nothing, "--on-error: is for a directory"),
    (
        "data.csv",
        "out.csv",
        ("--data", "data.csv"),
        nothing,
        "data.csv: may be several tables, and --output out.csv",
    ),
    ("*.csv", "out.csv", (), nothing, "*.csv: may be several tables, and --output out.csv"),
    ("data.csv", "out.json", (), nothing, "out.json: unknown extension"),
    ("data.csv", "out", ("--shard", "2/2"), nothing, "--shard 2/2: has to be from 0/2 to 1/2"),
    ("data.csv", "out", ("--shard", "1"), nothing, "--shard 1: has to be a part, from 0, and how many parts"),
    ("data.csv", "out", ("--on-error", "pass"), nothing, "--on-error pass: has to be one of stop, keep, skip"),
    ("data.csv", "out", ("--when-refuted", "x"), nothing, "--when-refuted x: has to be one of stop, full, go-on"),
    ("data.csv", "out", ("--when-refuted", "full"), nothing, "--when-refuted full: nothing is checked that could be"),
    ("data.csv", "out", ("--check-share", "1.5"), nothing, "--check-share 1.5: has to be from 0 to 1"),
    (
        "data.csv",
        "out",
        ("--check-share", "1", "--width", "1"),
        nothing,
        "--check-share: checks the policy, and --width",
    ),
    ("data.csv", "out", ("--check-share", "1"), nothing, "--check-share: the policy of "),
    ("data.csv", "out", ("--workers", "no"), nothing, "--workers no: has to be auto, or a number of at least 1"),
    ("*.tsv", "out", (), nothing, "*.tsv: no file has such a name; correct the pattern"),
    ("absent.csv", "out", (), nothing, "absent.csv: no such file"),
    ("nope://x/data.csv", "out", (), nothing, "nope://x/data.csv: Protocol not known: nope"),
    ("gs://x/data.csv", "out", (), nothing, "gs://x/data.csv: Please install gcsfs to access Google Storage; "),
    ("data.csv", "nope://x/out", (), nothing, "nope://x/out: Protocol not known: nope"),
    ("data.csv", "memory://x/out.csv", (), nothing, "--output memory://x/out.csv: is a file behind a URL"),
    ("empty", "out", (), lambda folder: (folder / "empty").mkdir(), "empty: holds no table; supported are .csv"),
    ("notes.txt", "out", (), lambda folder: (folder / "notes.txt").write_text("x"), "notes.txt: unknown extension"),
]


@pytest.mark.parametrize(("data", "output", "options", "make", "says"), REFUSED)
def test_what_is_refused_before_any_work(tmp_path, monkeypatch, data, output, options, make, says):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "data.csv", rows_of(9))
    make(tmp_path)
    monkeypatch.setattr(InferenceEngine, "_answer", None)
    before = files_in(tmp_path)
    command = fill(data, output, *options) if "--workers" not in options else fill(data, output)[:-2] + options
    if output.endswith(".csv") and "://" not in output:
        command = tuple(word for word in command if word not in ("--workers", 1))
    message = error_message(sharcs(*command))
    assert message.startswith(says), message
    assert {name: content for name, content in files_in(tmp_path).items() if content is not None} == {
        name: content for name, content in before.items() if content is not None
    }


def test_a_malformed_file_is_found_before_any_work(tmp_path, monkeypatch):
    data = write_all(tmp_path / "data", rows_of(60))
    with (data / "a.csv").open("a") as file:
        file.write("too,many,fields,here\n")
    monkeypatch.setattr(InferenceEngine, "_answer", None)
    assert "a.csv: row 22 (line 23): 4 fields" in error_message(sharcs(*fill(data, tmp_path / "out")))
    assert outputs(tmp_path / "out") == {}


def test_pairs_need_a_model_of_pairs(tmp_path):
    rows = [row | {"text_pair": "so"} for row in rows_of(3)]
    data = write_csv(tmp_path / "data.csv", rows)
    assert f"{data}: has text pairs, but the model" in error_message(sharcs(*fill(data, tmp_path / "out")))


def test_values_with_line_ends_survive_the_cut_into_units(small, tmp_path):
    rows = [row | {"note": f'"{number}"\nand,\r{number}'} for number, row in enumerate(rows_of(20))]
    data = write_csv(tmp_path / "data.csv", rows)
    succeeds(*fill(data, tmp_path / "out"))
    found = []
    for name in sorted(outputs(tmp_path / "out")):
        with Path(tmp_path / "out" / name).open(newline="") as file:
            found += [row["note"] for row in csv.DictReader(file)]
    assert found == [row["note"] for row in rows]
