"""The study of scale: what it sums up from made-up figures, and a run of few rows."""

import argparse
import os
import subprocess
import sys
import time

import pytest

from records.make import HERE

ARMS = ("one worker", "two workers", "two threads")
STUDY = ("one worker", "two workers", "one worker again", "two workers again", "two threads", "two threads again")


@pytest.fixture
def study(monkeypatch):
    """Import what stands in benchmarks/."""
    monkeypatch.syspath_prepend(str(HERE.parents[1] / "benchmarks"))
    import scale_study
    import scale_tables

    return scale_study, scale_tables


def arm(rate, **more):
    """Make up what an arm gave: a hundred rows of ten bytes in and twenty out."""
    memory = {
        f"{who}_{when}": 512.0 for who in ("front", "worker") for when in ("second_quarter", "last_quarter", "most")
    }
    usual = {"rows": 100, "rows_a_second": rate, "seconds": 100 / rate, "killed": 0, "same_bytes": True}
    return {**usual, "bytes_in": 1000, "bytes_out": 2000, **memory, **more}


def cells(table):
    """Read the rows of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_a_billion_texts_and_two_workers_by_hand(study):
    _, tables = study
    busy = {"alone": False, "arms": {"one worker": arm(7.0), "two workers": arm(9.0)}}
    rates = (90.0, 200.0, 110.0, 190.0, 180.0, 220.0)
    quiet = {"alone": True, "rows": 5000, "arms": dict(zip(STUDY, map(arm, rates), strict=True))}
    # 10⁹ / 90 / 3600 core hours; 10 bytes a row in and 20 out.
    assert cells(tables.billion({"a": busy, "b": quiet})) == [["b", "90", "3,086", "48.2", "0.5", "10", "20"]]
    assert cells(tables.two_against_one({"a": busy, "b": quiet})) == [
        ["b", "5,000", "100", "195", "200", "1.95", "0.97"]
    ]


def test_what_ray_takes_by_hand(study):
    _, tables = study
    arms = {"one worker": arm(9.0, busy_seconds=40.0), "ray": arm(9.0, busy_seconds=50.0)}
    assert cells(tables.ray_against_one({"rows": 1000, "arms": arms})) == [["1,000", "40", "50", "1.25"]]


def test_seconds_of_the_machine_go_on_while_something_runs(study):
    study, _ = study
    before, own = study.busy_seconds(), time.process_time()
    while time.process_time() < own + 0.3:
        pass
    assert study.busy_seconds() >= before + 0.25


def test_what_a_second_process_gains_by_hand(study):
    _, tables = study
    one = {"rows_per_second_full_network": 40.0, "rows_per_second_sub_networks": 100.0, "largest_difference": 0.0}
    two = {"rows_per_second_full_network": 70.0, "rows_per_second_sub_networks": 150.0, "largest_difference": 4e-6}
    assert cells(tables.processes({"a set": {"tokens_a_row": 13.4, "processes": {"1": one, "2": two}}})) == [
        ["a set", "13", "the full network", "40.0", "70.0", "1.75", "4.0e-06"],
        ["a set", "13", "its sub-networks", "100.0", "150.0", "1.50", "4.0e-06"],
    ]


def test_other_bytes_stand_out(study):
    _, tables = study
    content = {"arms": {"one worker": arm(10.0), "ray": arm(10.0, same_bytes=False, killed=2)}}
    found = cells(tables.arms(content))
    assert [row[2:4] for row in found] == [["0", "yes"], ["2", "NO"]]


def test_a_digest_sees_names_and_bytes(study, tmp_path):
    study, _ = study
    (tmp_path / "a.parquet").write_bytes(b"x")
    first = study.digest(tmp_path)
    (tmp_path / "notes.txt").write_text("not a table")
    assert study.digest(tmp_path) == first
    (tmp_path / "a.parquet").rename(tmp_path / "b.parquet")
    assert study.digest(tmp_path) != first


def test_descendants_are_found_and_their_memory(study):
    study, _ = study
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while len(study.children(process.pid)) < 1 and time.monotonic() < until:
            time.sleep(0.05)
        (child,) = study.children(process.pid)
        assert child in study.children(os.getpid())
        assert 0 < study.megabytes(child) < 500
        process.stdin.close()
    assert study.megabytes(child) == 0


@pytest.mark.extended
def test_a_run_of_few_rows(study, monkeypatch, tmp_path):
    study, _ = study
    found = []
    monkeypatch.setattr(study, "texts_of", lambda count, seed: [f"it is number {number}" for number in range(count)])
    monkeypatch.setattr(study, "save", lambda file, content: found.append(content))
    options = argparse.Namespace(name="few", rows=41, alone=False, width=None, kills=0, every=5.0)
    options.folder, options.model, options.arms = str(tmp_path), str(HERE / "plus-2"), ARMS
    study.run(options)
    arms = found[-1]["arms"]
    assert [of["same_bytes"] for of in arms.values()] == [True, True, None]
    assert [of["rows"] for of in arms.values()] == [41] * 3
    assert os.listdir(tmp_path) == []
