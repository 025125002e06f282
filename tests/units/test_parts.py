"""Parts of a plan: who takes which unit, rows out of the middle of a file, names of tables."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharcs.data.sources import is_one_table, sources_of
from sharcs.data.tables import open_table, write_table
from sharcs.errors import InputError
from sharcs.units.rows import Rows
from sharcs.units.schedule import Schedule


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_unit_is_done_once_whoever_dies(units, workers, deaths, chance):
    schedule = Schedule(range(units))
    done, at_work = [], dict.fromkeys(range(workers))
    while at_work:
        worker = chance.choice(list(at_work))
        unit = at_work[worker]
        if unit is not None and deaths and chance.random() < 0.3:
            deaths -= 1
            schedule.put_back(unit)
        elif unit is not None:
            done.append(unit)
        taken = schedule.take(unit)
        assert taken not in done
        assert taken is None or taken not in at_work.values() or taken == unit
        if taken is None:
            del at_work[worker]
        else:
            at_work[worker] = taken
    assert sorted(done) == list(range(units))


def test_a_worker_reads_on_and_another_one_begins_in_the_middle():
    schedule = Schedule(range(12))
    first = schedule.take(None)
    second = schedule.take(None)
    assert (first, second) == (0, 6)
    assert [schedule.take(0), schedule.take(1), schedule.take(6)] == [1, 2, 7]
    schedule.close()
    assert schedule.take(2) is None


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl.gz", "t.parquet", "t.parquet.zst", "t.tsv.zst"])
def test_rows_out_of_the_middle_are_those_of_the_whole(tmp_path, name, monkeypatch):
    table = pa.table({"text": [f"text {number}" for number in range(100)]})
    path = tmp_path / name
    if name == "t.parquet":
        pq.write_table(table, path, row_group_size=7)
    else:
        write_table(table, path)
    monkeypatch.setattr("sharcs.data.files.textfiles.in_chunks.__defaults__", (9,))
    monkeypatch.setattr("sharcs.data.files.parquet.CHUNK_ROWS", 9)
    stream = open_table(path)
    rows, chance = Rows(stream), random.Random(0)
    for _ in range(40):
        start = chance.randrange(101)
        stop = chance.randrange(start, 101)
        found = [text for batch in rows.batches(start, stop) for text in batch.column(0).to_pylist()]
        expected = table.column(0).to_pylist()[start:stop]
        assert [text.strip('"') for text in found] == expected
    with pytest.raises(InputError, match="has fewer rows than when the work began"):
        list(rows.batches(90, 101))


def test_a_file_is_read_once_by_who_reads_on(tmp_path):
    write_table(pa.table({"text": [f"{number}" for number in range(50)]}), tmp_path / "t.csv")
    stream = open_table(tmp_path / "t.csv")
    begun, batches = [], stream.batches
    object.__setattr__(stream, "batches", lambda: begun.append(1) or batches())
    rows = Rows(stream)
    for start in range(0, 50, 10):
        assert sum(batch.num_rows for batch in rows.batches(start, start + 10)) == 10
    assert len(begun) == 1


def test_names_are_spelled_out_in_order_and_placed_below_what_they_share(tmp_path, monkeypatch):
    for name in ("x/b.csv", "x/a.csv", "y/[1].csv", "x/deep/c.jsonl.zst"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n")
    monkeypatch.chdir(tmp_path)
    names = ["x/*.csv", "y/[1].csv", f"file://{tmp_path}/x"]

    def places(*names):
        return [source.place for source in sources_of(names)]

    assert [source.name for source in sources_of(names)] == [
        "x/a.csv",
        "x/b.csv",
        "y/[1].csv",  # a file wins over a pattern
        f"{tmp_path}/x/deep/c.jsonl.zst",
    ]
    assert [source.place for source in sources_of(names)] == ["x/a.csv", "x/b.csv", "y/[1].csv", "x/deep/c.jsonl.zst"]
    assert [source.place for source in sources_of(["x/a.csv"])] == ["a.csv"]
    assert [source.place for source in sources_of(["x/**/*.jsonl.zst", "x"])] == [
        "deep/c.jsonl.zst",
        "a.csv",
        "b.csv",
    ]
    assert [source.place for source in sources_of(["reuters-r8:train[:10%]"])] == ["reuters-r8-train-10-.parquet"]


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (["t.csv"], True),
        (["absent.csv"], True),
        (["reuters-r8:train[:9]"], True),
        (["[a].csv"], True),
        (["*.csv"], False),
        (["."], False),
        (["t.csv", "t.csv"], False),
        (["b[c].csv"], False),
    ],
)
def test_one_table_is_told_from_many(tmp_path, monkeypatch, names, one):
    monkeypatch.chdir(tmp_path)
    for name in ("t.csv", "[a].csv"):
        (tmp_path / name).write_text("text\n")
    assert is_one_table(names) == one


def test_files_of_two_file_systems_are_refused(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe_file("/one/t.csv", b"text\n")
    (tmp_path / "t.csv").write_text("text\n")
    with pytest.raises(InputError, match="lie in different file systems; give files of one"):
        sources_of(["memory://one/t.csv", str(tmp_path / "t.csv")])
