"""Two runs on one output: the second is refused at once, whatever the command, and a dead run is in nobody's way."""

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from helpers.cli import ONE_EPOCH, error_message, sharcs, succeeds, toys_fixture  # noqa: F401
from sharcs import InputError
from sharcs.files import claimed, write_json
from sharcs.inference.folder import open_model

# What each command that writes calls when it has claimed its output, and what it says that it writes.
COMMANDS = {
    "train": ("sharcs.jobs.given.load_texts", "--output new"),
    "train, resume": ("sharcs.jobs.given.load_texts", "--output begun"),
    "predict": ("sharcs.inference.exported.open_trained", "out.csv"),
    "calibrate": ("sharcs.jobs.given.load_texts", "model/config.json"),
    "export": ("sharcs.inference.folder.open_model", "--output graphs"),
    "report": ("sharcs.inference.folder.open_trained", "--output page.html"),
    "evaluate": ("sharcs.inference.exported.open_trained", "--json numbers.json"),
    "benchmark": ("sharcs.inference.folder.open_model", "--json numbers.json"),
}

# What takes too long to be done again in a test.
LONG = {"export": "sharcs.export.bundle.export_model", "benchmark": "sharcs.benchmark.measure.run_benchmark"}


@pytest.fixture
def arguments(toys, tmp_path, monkeypatch):
    """Build the arguments of each command, for an empty directory in which it runs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toys.model, "model")
    data = ("--data", toys.test)
    training = ("train", "--data", toys.train, "--model", toys.encoder, *ONE_EPOCH)
    return {
        "train": (*training, "--output", "new"),
        "train, resume": (*training, "--output", "begun"),
        "predict": ("predict", "model", *data, "--output", "out.csv"),
        "calibrate": ("calibrate", "model", *data, "--budget", 0.99),
        "export": ("export", "model", "--output", "graphs"),
        "report": ("report", "model", *data, "--output", "page.html"),
        "evaluate": ("evaluate", "model", *data, "--json", "numbers.json"),
        "benchmark": ("benchmark", "model", *data, "--json", "numbers.json", "--seconds", 1),
    }


def run_until(function, arguments, pipe):
    """Run a command; where it calls the function, say so and wait."""
    module, _, name = function.rpartition(".")
    __import__(module)
    unpaused = getattr(sys.modules[module], name)

    def paused(*given, **options):
        pipe.send("claimed")
        pipe.recv()
        return unpaused(*given, **options)

    with mock.patch(function, paused):
        run = sharcs(*arguments)
    sys.exit(run.code)


@contextmanager
def another_run(function, arguments):
    """Run a command in another process up to a function, until something is sent to the pipe."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_until, args=(function, arguments, theirs))
    process.start()
    try:
        assert ours.poll(120)
        assert ours.recv() == "claimed"
        yield process, ours
    finally:
        process.kill()
        process.join(60)


def interrupt(arguments):
    """Begin a training and stop it after its first steps."""
    with mock.patch("sharcs_cli.progress.EpochProgress.on_step_end", side_effect=KeyboardInterrupt):
        assert sharcs(*arguments).code == 130


def names_in(folder):
    """List all files and directories below one."""
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*")}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_run_is_refused_and_a_killed_one_is_no_hindrance(command, arguments, tmp_path, monkeypatch):
    function, shown = COMMANDS[command]
    words = arguments[command]
    if command == "train, resume":
        interrupt(words)
        words = (*words, "--resume")
    before = names_in(tmp_path)
    with another_run(function, words) as (process, _):
        during = names_in(tmp_path)
        assert error_message(sharcs(*words)) == (
            f"{shown}: process {process.pid} on {socket.gethostname()} is writing it; wait for that run, or name "
            "another output"
        )
        assert names_in(tmp_path) == during
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert any(name.endswith(".sharcs-lock") for name in names_in(tmp_path) - before)
    if command in LONG:

        def reached(*args, **kwargs):
            raise InputError("nobody else is writing")

        monkeypatch.setattr(LONG[command], reached)
        assert error_message(sharcs(*words)) == "nobody else is writing"
    else:
        assert sharcs(*words).code in (0, 3)  # 3: no policy keeps the limit
    assert not any(name.endswith(".sharcs-lock") for name in names_in(tmp_path))


def test_the_first_run_ends_as_if_nobody_had_disturbed_it(arguments, tmp_path):
    words = arguments["evaluate"]
    with another_run(COMMANDS["evaluate"][0], words) as (process, pipe):
        error_message(sharcs(*words))
        pipe.send("go on")
        process.join(60)
        assert process.exitcode == 0
    first = Path("numbers.json").read_bytes()
    succeeds(*words)
    assert Path("numbers.json").read_bytes() == first
    assert names_in(tmp_path) - names_in("model") >= {"numbers.json", "numbers.png"}


def test_pictures_of_two_pages_are_told_apart(arguments):
    with another_run(COMMANDS["report"][0], arguments["report"]):
        message = error_message(sharcs(*arguments["report"][:-1], "page.htm"))  # its pictures have the same names
        assert message.startswith("--output page.htm: process ")
        message = error_message(sharcs(*arguments["evaluate"][:-1], "page-curve.json"))
        assert message.startswith("--json page-curve.json: process ")


def test_a_link_is_claimed_as_what_it_points_to(arguments):
    os.symlink("out.csv", "link.csv")
    with another_run(COMMANDS["predict"][0], arguments["predict"]):
        assert "link.csv: process " in error_message(sharcs(*arguments["predict"][:-1], "link.csv"))


def test_a_refused_training_leaves_no_directory(arguments, tmp_path):
    words = (*arguments["train"][:-1], "a/b/new", "--label-column", "absent")
    assert "no column 'absent'" in error_message(sharcs(*words))
    assert not (tmp_path / "a").exists()


def test_threads_of_one_process_are_told_apart_and_a_claim_holds_for_what_it_calls(tmp_path):
    target, found = tmp_path / "numbers.json", []

    def other_thread():
        try:
            with claimed(target):
                found.append("claimed")
        except InputError as error:
            found.append(str(error))

    with claimed(target):
        with claimed(target):
            write_json({}, target)
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert found == [
        f"{target}: process {os.getpid()} on {socket.gethostname()} is writing it; wait for that run, or name "
        "another output"
    ]
    with claimed(target):
        pass
    assert os.listdir(tmp_path) == ["numbers.json"]


def claim(target):
    """Claim a file for a moment."""
    with claimed(target):
        pass


def become_nobody(function, path, pipe):
    """Call a function as another user, and send what that says."""
    os.setgid(65534)
    os.setuid(65534)
    try:
        function(path)
        pipe.send("done")
    except InputError as error:
        pipe.send(str(error))


def as_nobody(path, function=claim):
    """Call a function in a process of another user, and return what that says."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=become_nobody, args=(function, path, theirs))
    process.start()
    process.join(60)
    assert ours.poll()
    return ours.recv()


only_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be another user")


def let_others_in(folder):
    """Make a test's folder one that others may enter; pytest keeps those above it to itself."""
    for parent in folder.parents:
        if parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)


@only_root
def test_rights_are_checked_before_the_work(tmp_path):
    tmp_path.chmod(0o777)
    let_others_in(tmp_path)
    target, dead = tmp_path / "out.csv", tmp_path / ".out.csv.sharcs-lock"
    dead.write_text("process 1 on elsewhere")  # a killed run of ours, which nobody else may write to
    dead.chmod(0o644)
    assert as_nobody(target) == "done"
    with claimed(target):
        assert as_nobody(target).startswith(f"{target}: process {os.getpid()} on ")
    target.write_text("mine")
    target.chmod(0o444)
    assert as_nobody(target) == f"{target}: is write-protected; name another place, or make it writable"
    tmp_path.chmod(0o755)
    assert "can't be written ([Errno 13] Permission denied" in as_nobody(target)
    assert os.listdir(tmp_path) == ["out.csv"]


@only_root
def test_a_model_that_may_not_be_read_is_not_called_broken(toys, tmp_path):
    let_others_in(tmp_path)
    tmp_path.chmod(0o755)
    model = shutil.copytree(toys.model, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.chmod(0o600)
    refusal = "can't be read (permission denied); ask its owner for the right to"
    assert as_nobody(model, open_model) == f"{weights}: {refusal}"
    model.chmod(0o700)
    assert as_nobody(model, open_model) == f"{model}: {refusal}"
