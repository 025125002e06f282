"""A full disk, a real one: one line, exit code 2 and what to do; what was there stays, nothing is half-written."""

import os
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from helpers.cli import ONE_EPOCH, error_message, files_in, sharcs, succeeds, toys_fixture, write_csv  # noqa: F401
from sharcs.benchmark.measure import BATCH_SIZES
from sharcs.benchmark.results import BenchmarkReport, BenchmarkRow

FULL = "be written ("
REMEDY = "make room"


@pytest.fixture
def disk(tmp_path):
    """Hand out a function that mounts a file system of some size."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small file system can't be mounted here; only root may")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave):
    """Leave so many bytes of a file system."""
    with (folder / "filler").open("wb") as file:
        free = os.statvfs(folder)
        file.write(b"\0" * max(0, free.f_bavail * free.f_frsize - leave))


# The command, the bytes that are left, and whether something of the output is to be kept.
CASES = [("benchmark", 0), ("benchmark", 8192), ("benchmark", 16384), ("evaluate", 0), ("evaluate", 16384)]
CASES += [("predict", 0), ("predict", 8192), ("report", 65536), ("calibrate", 0)]
CASES += [("units", 0), ("units", 16384), pytest.param("workers", 16384, marks=pytest.mark.extended)]
UNITS = {"answers", "answers/_sharcs", "answers/_sharcs/manifest.json"}  # with which the same command goes on


@pytest.mark.parametrize(("command", "leave"), CASES)
def test_a_full_disk_is_one_line(command, leave, toys, disk, monkeypatch):
    values = dict.fromkeys((field.name for field in fields(BenchmarkRow)), 1.0)
    ratios = dict.fromkeys(BATCH_SIZES, 1.0)
    row = BenchmarkRow(**values | {"name": "full", "time_ratio": ratios, "flops_ratio_at": ratios})
    report = BenchmarkReport([row], "none")
    monkeypatch.setattr("sharcs.benchmark.measure.run_benchmark", lambda *_, **__: report)
    folder = disk("16m")
    shutil.copytree(toys.model, folder / "model")
    texts = [{"text": f"it is fine and lovely {number}" * 9, "label": "good"} for number in range(200)]
    data = write_csv(toys.train.parent / "many.csv", texts)
    many = ("predict", toys.model, "--data", data, "--data", toys.test, "--output", folder / "answers")
    words = {
        "units": (*many, "--workers", 1),
        "workers": (*many, "--workers", 2),
        "evaluate": ("evaluate", toys.model, "--data", data, "--json", folder / "numbers.json"),
        "benchmark": ("benchmark", toys.model, "--data", data, "--json", folder / "numbers.json"),
        "predict": ("predict", toys.model, "--data", data, "--output", folder / "out.csv"),
        "report": ("report", toys.model, "--data", data, "--output", folder / "page.html"),
        "calibrate": ("calibrate", folder / "model", "--data", data, "--budget", 0.99),
    }[command]
    fill(folder, leave)
    before = files_in(folder)
    message = error_message(sharcs(*words))
    assert FULL in message
    assert "make room" in message or "name another place" in message
    before_the_picture = command in ("evaluate", "benchmark") and leave
    whole = {"numbers.json"} if before_the_picture else UNITS if command in ("units", "workers") else set()
    written = set(files_in(folder)) - set(before)
    if command == "workers":  # what another process was at when it was ended goes at the next start
        written = {name for name in written if not Path(name).name.startswith(".")}
    assert written <= whole
    assert {name: content for name, content in files_in(folder).items() if name in before} == before


@pytest.mark.parametrize(
    "size", [*(pytest.param(size, marks=pytest.mark.extended) for size in ("3m", "6m", "14m", "18m")), "9m"]
)
def test_a_training_goes_on_where_the_disk_was_full(size, toys, disk, tmp_path):
    training = ("train", "--data", toys.train, "--model", toys.encoder, *ONE_EPOCH)
    folder = disk(size)
    message = error_message(sharcs(*training, "--output", folder / "model"))
    assert FULL in message
    assert message.endswith("make room, and --resume goes on from the last checkpoint")
    shutil.copytree(folder / "model", tmp_path / "model")
    succeeds(*training, "--output", tmp_path / "model", "--resume")
    succeeds(*training, "--output", tmp_path / "whole")
    weights = [Path(tmp_path, name, "model.safetensors").read_bytes() for name in ("model", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.extended
def test_an_export_leaves_nothing_on_a_full_disk(toys, disk):
    folder = disk("2m")
    message = error_message(sharcs("export", toys.model, "--output", folder / "graphs"))
    assert FULL in message
    assert REMEDY in message
    assert os.listdir(folder) == []
