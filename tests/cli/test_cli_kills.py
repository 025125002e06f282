"""Killed at any moment, every long command ends as an undisturbed run would when it is run again.

What ``benchmark`` measures differs from run to run, so its numbers count by their names alone.
A moment is one of the events that Python reports to audit hooks: files opened, renamed and removed, modules imported.
``SHARCS_FUZZ=100 pytest tests/cli/test_cli_kills.py`` kills each command so often, at moments that are drawn anew.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest

from helpers.cli import files_in, sharcs, succeeds, toys_fixture  # noqa: F401
from helpers.fuzz import ASKED

TRAINING = ("--epochs", 2, "--batch-size", 2, "--max-length", 8, "--max-train-samples", 40, "--widths", "0.25,1.0")


def words_of(command, toys):
    """Build a command that is run in a directory with a model in it."""
    data = ("--data", toys.test)
    return {
        "train": ("train", "--data", toys.train, "--model", toys.encoder, "--output", "new", *TRAINING),
        "predict": ("predict", "model", *data, "--output", "out.jsonl", "--scores"),
        "evaluate": ("evaluate", "model", *data, "--json", "numbers.json"),
        "calibrate": ("calibrate", "model", *data, "--budget", 0.9),
        "report": ("report", "model", *data, "--output", "page.html"),
        "benchmark": ("benchmark", "model", *data, "--json", "times.json", "--seconds", 1),
        "units": ("predict", "model", *data, "--data", toys.train, "--output", "answers", "--workers", 1),
        "workers": ("predict", "model", *data, "--data", toys.train, "--output", "answers", "--workers", 2),
        "export": ("export", "model", "--output", "graphs"),
    }[command]


def run_until(words, moment, counted):
    """Run a command, count events, and be killed at one of them."""
    count = 0

    def note(_event, _arguments):
        nonlocal count
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    code = sharcs(*words).code
    counted.value = count
    os._exit(code)


def end_of(words, moment=0):
    """Run a command in another process; how it ended, and how many events there were."""
    context = multiprocessing.get_context("fork")
    counted = context.Value("q", 0)
    process = context.Process(target=run_until, args=(words, moment, counted))
    process.start()
    process.join()
    return process.exitcode, counted.value


def contents(folder):
    """Read what counts of a directory: no locks, no checkpoints of an unfinished training, no measured numbers."""
    found = {name: content for name, content in files_in(folder).items() if not Path(name).name.startswith(".")}
    return found | {
        name: without_numbers(json.loads(found[name])) if name.endswith("json") else None
        for name in found.keys() & {"times.json", "times.png"}
    }


def without_numbers(content):
    """Keep the names of a JSON value, and leave out what was measured."""
    if isinstance(content, dict):
        return {name: without_numbers(value) for name, value in content.items()}
    if isinstance(content, list):
        return [without_numbers(value) for value in content]
    return type(content)


def again(words, folder):
    """Run a command again as its messages say."""
    if words[0] == "train":
        if (folder / "new" / "config.json").is_file():
            return
        words = (*words, "--resume") if (folder / "new" / "training.json").is_file() else words
    if words[0] == "export" and (folder / "graphs").is_dir():
        return
    succeeds(*words)


@pytest.mark.extended
@pytest.mark.parametrize(
    "command",
    ["train", "predict", "evaluate", "calibrate", "report", "export", "benchmark", "units", "workers"],
)
def test_a_command_that_was_killed_ends_as_if_it_had_not_been(command, toys, tmp_path, monkeypatch):
    words = words_of(command, toys)

    def begin(name):
        (tmp_path / name).mkdir()
        shutil.copytree(toys.model, tmp_path / name / "model")
        monkeypatch.chdir(tmp_path / name)

    begin("undisturbed")
    code, events = end_of(words)
    assert code == 0
    expected = contents(tmp_path / "undisturbed")
    generator = random.Random(None if ASKED else command)
    killed = 0
    for number in range(ASKED or 3):
        begin(f"{number}")
        moment = generator.randint(1, events)
        code, _ = end_of(words, moment)
        killed += code == -signal.SIGKILL
        again(words, tmp_path / f"{number}")
        found = contents(tmp_path / f"{number}")
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        assert different == [], f"killed at event {moment} of {events}"
        shutil.rmtree(tmp_path / f"{number}")
    assert killed
