"""Data and outputs behind URLs: fsspec's file systems in memory and on the disk."""

import fsspec
import pytest

from helpers.cli import error_message, files_in, read_csv, sharcs, succeeds, write_csv
from helpers.units import Small
from records.make import HERE, ROWS
from sharcs.inference import predict as prediction
from sharcs.units import plan as planning

MODEL = HERE / "plus-2"


@pytest.fixture
def memory(monkeypatch):
    """Hand out an empty file system in memory; windows of four rows, and units of two."""
    monkeypatch.setattr(prediction, "InferenceEngine", Small)
    monkeypatch.setattr(planning, "LEAST_WINDOWS", 2)
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True) if system.store else None
    yield system
    system.store.clear()


def fill(data, output, *options):
    return ("predict", MODEL, "--data", data, "--output", output, "--workers", 1, *options)


def stored(system, folder):
    """Read what lies below a folder of a file system."""
    return {path.removeprefix(f"{folder}/"): system.cat_file(path) for path in system.find(folder)}


@pytest.fixture
def local(tmp_path):
    """Write data, and what one process makes of it on the disk."""
    (tmp_path / "data").mkdir()
    write_csv(tmp_path / "data" / "a.csv", read_csv(ROWS)[:21])
    write_csv(tmp_path / "data" / "b.csv", read_csv(ROWS)[21:30])
    return tmp_path / "data"


def files(folder):
    """Read the files of a directory but the plan, which holds when the data was written."""
    found = files_in(folder).items()
    return {name: content for name, content in found if content is not None and "manifest" not in name}


def test_urls_are_read_and_written_as_files_are(memory, local, tmp_path):
    succeeds(*fill(local, tmp_path / "out"))
    for name, content in files_in(local).items():
        memory.pipe_file(f"/data/{name}", content)
    for data in ("memory://data", "memory://data/*.csv"):
        message = succeeds(*fill(data, "memory://out/x")).err
        assert "30 rows of 2 files are in memory://out/x (5 units)" in message
        found = stored(memory, "/out/x")
        assert found.pop("_sharcs/manifest.json")
        assert found == files(tmp_path / "out")
        assert "; all was done before" in succeeds(*fill(data, "memory://out/x")).err
        memory.rm("/out", recursive=True)
    succeeds(*fill(f"file://{local}", f"file://{tmp_path}/again"))
    assert files(tmp_path / "again") == files(tmp_path / "out")
    succeeds("predict", MODEL, "--data", "memory://data/a.csv", "--output", tmp_path / "a.csv")
    assert len(read_csv(tmp_path / "a.csv")) == 21


def test_a_url_is_gone_on_with_and_has_whole_files_alone(memory, local, tmp_path, monkeypatch):
    succeeds(*fill(local, tmp_path / "out"))
    whole, run, asked = files(tmp_path / "out"), Small._answer, []

    def counted(self, read):
        if len(asked) == 3:
            assert set(stored(memory, "/out")) == {"a-00000.csv", "_sharcs/manifest.json", "_sharcs/done-000000.json"}
            raise KeyboardInterrupt
        asked.append(1)
        return run(self, read)

    with monkeypatch.context() as patch:
        patch.setattr(Small, "_answer", counted)
        assert sharcs(*fill(local, "memory://out")).code == 130
    assert "; 1 of the units were done before" in succeeds(*fill(local, "memory://out")).err
    found = stored(memory, "/out")
    assert found.pop("_sharcs/manifest.json")
    assert found == whole


def test_another_plan_behind_a_url_is_refused(memory, local):
    memory.pipe_file("/data/a.csv", (local / "a.csv").read_bytes())
    succeeds(*fill("memory://data", "memory://out"))
    memory.pipe_file("/data/a.csv", (local / "a.csv").read_bytes())
    message = error_message(sharcs(*fill("memory://data", "memory://out")))
    assert "was begun with another a.csv, which has been written since" in message
    memory.pipe_file("/used/mine.txt", b"mine")
    assert "memory://used: is in use" in error_message(sharcs(*fill("memory://data", "memory://used")))


def test_what_a_file_system_raises_is_one_line(memory, local, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the network is gone\nand more")

    assert error_message(sharcs(*fill("memory://absent/a.csv", "memory://out"))) == (
        "memory://absent/a.csv: there is no such file; correct the name"
    )
    assert error_message(sharcs(*fill("memory://absent/*.csv", "memory://out"))) == (
        "memory://absent/*.csv: there is no such file; correct the name"
    )
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "pipe_file", broken)
        assert error_message(sharcs(*fill(local, "memory://out"))) == (
            "memory://out/_sharcs/manifest.json: can't be written (the network is gone); name another place"
        )
    memory.pipe_file("/data/a.csv", b"text\n")
    monkeypatch.setattr(type(memory), "_open", broken)
    assert error_message(sharcs(*fill("memory://data/a.csv", "memory://other"))) == (
        "memory:///data/a.csv: cannot be read (the network is gone)"
    )
