"""What few_rows.py, first_answer.py and newcomer.py draw, count and show, on cases whose right result is known."""

import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def scripts():
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path[:] = before


def test_so_many_rows_of_each_class_are_drawn():
    import few_rows

    labels = ["a"] * 40 + ["b"] * 30 + ["c"] * 5
    chosen = few_rows.drawn(labels, 8, seed=0)
    assert Counter(labels[row] for row in chosen) == {"a": 8, "b": 8, "c": 5}
    assert chosen == sorted(set(chosen))
    assert chosen == few_rows.drawn(labels, 8, seed=0)
    assert chosen != few_rows.drawn(labels, 8, seed=1)
    assert few_rows.share_right(["a", "b", "b", "c"], ["a", "b", "c", "c"]) == 0.75


def test_while_tuning_nothing_that_was_drawn_and_no_test_row_is_measured(monkeypatch):
    import few_rows

    given = {}

    def method(train, measured, seed):
        given.update(train=train, measured=measured)
        return {}

    texts = [f"text {number}" for number in range(60)]
    read = []
    monkeypatch.setattr(few_rows, "rows_of", lambda path: read.append(path) or (texts, ["a", "b"] * 30))
    monkeypatch.setitem(few_rows.METHODS, "head", method)
    few_rows.one("head", "sst2", 8, 0, {}, tuned=True)
    assert len(given["train"][0]) == 16
    assert sorted(given["train"][0] + given["measured"][0]) == sorted(texts)
    assert [Path(path).name for path in read] == ["train.csv.gz"]


def test_lines_are_counted_without_comments_and_empty_ones():
    import first_answer

    assert first_answer.lines_of("import a\n\n# why\nb = (\n    1,\n)\n") == 4
    programs = sorted(first_answer.PROGRAMS.glob("*.py"))
    assert {program.stem for program in programs} == set(pytest.importorskip("friendly_tables").GIVES)


def test_the_table_of_few_rows_has_means_over_the_draws():
    import friendly_tables

    same = {"set": "sst2", "shots": 8, "rows": 16, "cost": 1.0}
    runs = [
        {**same, "method": "head", "accuracy": 0.5, "processor_seconds": 1.0},
        {**same, "method": "head", "accuracy": 0.6, "processor_seconds": 3.0},
        {**same, "method": "ours", "accuracy": 0.7, "processor_seconds": 60.0},
    ]
    lines = friendly_tables.few_rows({"runs": runs}).splitlines()[2:]
    assert lines == [
        "| sst2 | 8 | 16 | ours, routed | 70.0 | 100 | 60 |",
        "| sst2 | 8 | 16 | linear head on frozen embeddings | 55.0 | 100 | 2 |",
    ]


def test_a_newcomers_command_is_run_in_a_new_home_and_both_channels_come_in_order(tmp_path, monkeypatch):
    import newcomer

    monkeypatch.setenv("PYTHONPATH", "src")
    command = 'echo "$HOME ${PYTHONPATH:-none}"; echo "WARNING: Location x" >&2; echo last >&2; exit 3'
    found = newcomer.run(command, tmp_path)
    assert found["said"] == [f"{tmp_path}/home none", "last"]
    assert found["code"] == 3
