"""Directories of answers by several processes: byte for byte what one process writes, whoever is killed."""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import units as helper
from helpers.cli import error_message, files_in, read_csv, sharcs, succeeds, write_csv
from records.make import HERE, ROWS
from sharcs.files import claimed
from sharcs.inference import predict as prediction
from sharcs.units import plan as planning
from sharcs.units import processes

MODEL = HERE / "plus-2"
ROW_COUNT = 60  # eight units of two windows, one of which is shorter


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Answer windows of four rows, and units of two windows, in all processes."""
    monkeypatch.setattr(prediction, "InferenceEngine", helper.Small)
    monkeypatch.setattr(planning, "LEAST_WINDOWS", 2)
    monkeypatch.setattr(processes, "main", helper.main)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("units") / "data.csv", read_csv(ROWS)[:ROW_COUNT])


@pytest.fixture
def whole(data, tmp_path):
    """Read what one process writes."""
    succeeds(*fill(data, tmp_path / "whole", 1))
    return files_in(tmp_path / "whole")


def fill(data, output, workers, *options):
    """Write the command that fills a directory."""
    return ("predict", MODEL, "--data", data, "--output", output, "--workers", workers, *options)


def test_two_processes_write_what_one_does(data, whole, tmp_path):
    message = succeeds(*fill(data, tmp_path / "out", 2)).err
    assert f"60 rows of 1 files are in {tmp_path / 'out'} (8 units)\n" in message
    assert files_in(tmp_path / "out") == whole


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(1, 6))])
def test_what_a_killed_process_had_is_done_by_others(data, whole, tmp_path, monkeypatch, seed):
    window = random.Random(seed).randrange(6)  # in one of its first three units
    monkeypatch.setattr(processes, "main", helper.doomed)
    folder = helper.doom(tmp_path / "out", window, deaths=1)
    advanced = []

    @contextlib.contextmanager
    def bar(_title, _total):
        yield advanced.append

    monkeypatch.setattr("sharcs_cli.units.progress_bar", bar)
    succeeds(*fill(data, tmp_path / "out", 2))
    assert not list(folder.glob("death-*"))
    assert files_in(tmp_path / "out") == whole
    assert sum(advanced) == ROW_COUNT
    assert (min(advanced) < 0) == (window % 2 == 1)  # answers of a unit's first window are lost


def test_a_unit_that_processes_die_of_is_named_and_the_rest_goes_on(data, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "main", helper.poisoned)
    message = error_message(sharcs(*fill(data, tmp_path / "out", 2)))
    assert message == (f"{data}: 2 worker processes died of rows 41 to 48; give fewer --workers if memory is short")
    left = files_in(tmp_path / "out")
    finished = {name for name in left if name.startswith("_sharcs/done-")}
    assert 1 <= len(finished) < 8
    assert {name: left[name] for name in finished} == {name: whole[name] for name in finished}
    monkeypatch.setattr(processes, "main", helper.main)
    assert f"; {len(finished)} of the units were done before" in succeeds(*fill(data, tmp_path / "out", 2)).err
    assert files_in(tmp_path / "out") == whole


def die_alone(command, output):
    """Run a command in this process, which dies of it."""
    os.environ["DOOM"] = f"{output}-doom"
    sharcs(*command)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(1, 6))])
def test_a_killed_command_is_gone_on_with_by_others(data, whole, tmp_path, seed):
    window = random.Random(seed).randrange(1, 15)
    output = tmp_path / "out"
    helper.doom(output, window, deaths=1)
    process = multiprocessing.get_context("fork").Process(target=die_alone, args=(fill(data, output, 1), output))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(output.glob("_sharcs/done-*"))) == window // 2
    succeeds(*fill(data, output, 2))
    assert files_in(output) == whole


def test_what_a_process_refuses_is_one_line(tmp_path):
    rows = read_csv(ROWS)[:30]
    rows[20] = rows[20] | {"text": ""}
    data = write_csv(tmp_path / "data.csv", rows)
    message = error_message(sharcs(*fill(data, tmp_path / "out", 2)))
    assert message == f"{data}: row 21: the text is empty (column 'text'); fill it in or drop the row"


def hold(target, pipe):
    """Claim something until told otherwise."""
    with claimed(target):
        pipe.send("claimed")
        pipe.recv()


@contextlib.contextmanager
def held(target):
    """Have another process claim something; its number."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(target, theirs))
    process.start()
    try:
        assert ours.recv() == "claimed"
        yield process.pid
    finally:
        ours.send("go")
        process.join(60)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("target", ["_sharcs/shard-0-of-1", "data-00003.csv"])
def test_what_another_command_is_writing_is_left_to_it(data, whole, tmp_path, workers, target):
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out" / target) as pid:
        message = error_message(sharcs(*fill(data, tmp_path / "out", workers)))
    assert message == (
        f"{tmp_path / 'out'}/{target}: process {pid} on {socket.gethostname()} is writing it; wait for that run, or "
        "name another output"
    )
    succeeds(*fill(data, tmp_path / "out", workers))
    assert files_in(tmp_path / "out") == whole


COMMAND = "from sharcs_cli.app import main\nif __name__ == '__main__':\n    main()\n"


@pytest.mark.extended
def test_processes_end_with_their_command(tmp_path):
    """As installed: many windows, and the command is killed when the first units are done."""
    (tmp_path / "data").mkdir()
    for number in range(12):
        write_csv(tmp_path / "data" / f"{number}.csv", read_csv(ROWS) * 2)
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    words = fill(tmp_path / "data", tmp_path / "out", 2)
    process = subprocess.Popen([sys.executable, str(script), *map(str, words)], start_new_session=True)
    while len(list((tmp_path / "out").glob("_sharcs/done-*"))) < 3:
        assert process.poll() is None
    group = os.getpgid(process.pid)
    process.kill()
    process.wait()
    while members(group):
        pass  # the time limit is the test's
    for command in (words, fill(tmp_path / "data", tmp_path / "whole", 1)):
        subprocess.run([sys.executable, str(script), *map(str, command)], check=True)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def members(group):
    """List the processes of a group that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, members_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(members_group) == group and state != "Z":
                found.append(folder.name)
    return found
