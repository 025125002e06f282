"""Tables of any size through ``sharcs predict``: streams against whole tables, kills, changed inputs, memory."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from helpers.cli import (
    error_message,
    files_in,
    one_by_one,
    read_csv,
    sharcs,
    succeeds,
    toys_fixture,  # noqa: F401
    write_csv,
)
from sharcs.data.files import textfiles
from sharcs.data.tables import open_table
from sharcs.errors import InputError
from sharcs.inference import predict as prediction
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.record import AnswerRecord, recorded
from sharcs.subnetworks.onednn import without_shape_cache

PARTIAL = ".out.csv.sharcs-partial"
WINDOW = 8
EXTENDED = pytest.mark.extended


@pytest.fixture
def small_windows(monkeypatch):
    """Answer a few rows at a time."""
    set_window(monkeypatch, WINDOW)


def set_window(monkeypatch, size):
    class Small(InferenceEngine):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, window=size, **kwargs)

    monkeypatch.setattr(prediction, "InferenceEngine", Small)


def parts_in(folder):
    return sorted(Path(folder).glob("part-*.parquet"))


def rows_of(count):
    subjects = ("the film", "a plot", "this book and its end", "my dog", "that town by the sea in the north")
    words = ("fine", "awful", "dull", "lovely")
    return [{"text": f"{subjects[n % 5]} is {words[n * n % 4]} {n}", "id": str(n)} for n in range(count)]


def predict_command(toys, data, output, *options):
    return ("predict", toys.model, "--data", data, "--output", output, *options)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_stream_is_read_in_small_parts(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    line = "text {0},{0}\n" if suffix == ".csv" else '{{"text": "text {0}", "n": {0}}}\n'
    with path.open("w") as file:
        file.write("text,n\n" if suffix == ".csv" else "")
        file.writelines(line.format(n) for n in range(40_000))
    next(open_table(path).batches())  # what it imports isn't to be counted
    tracemalloc.start()
    stream = open_table(path)
    count = sum(batch.num_rows for batch in stream.batches())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 40_000
    assert peak < 12e6  # all rows as Python objects would take 24 MB


# Results and kills


def test_the_output_does_not_depend_on_windows_and_chunks(toys, tmp_path, monkeypatch):
    data = write_csv(tmp_path / "data.csv", rows_of(60))
    succeeds(*predict_command(toys, data, tmp_path / "whole.csv"))
    monkeypatch.setattr(textfiles.in_chunks, "__defaults__", (7,))
    set_window(monkeypatch, 5)
    succeeds(*predict_command(toys, data, tmp_path / "parts.csv"))
    whole, parts = read_csv(tmp_path / "whole.csv"), read_csv(tmp_path / "parts.csv")
    assert len(whole) == 60
    for one, other in zip(whole, parts, strict=True):
        assert float(one.pop("score")) == pytest.approx(float(other.pop("score")), abs=1e-5)
        assert one == other


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="oneDNN may be all that there is")
@pytest.mark.parametrize("enabled", [True, False])
def test_onednn_which_keeps_code_for_every_shape_is_off_meanwhile(toys, tmp_path, monkeypatch, enabled):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", enabled)
    run, seen = InferenceEngine._answer, []

    def watched(self, tokens):
        seen.append(torch.backends.mkldnn.enabled)
        return run(self, tokens)

    monkeypatch.setattr(InferenceEngine, "_answer", watched)
    data = write_csv(tmp_path / "data.csv", rows_of(10))
    succeeds(*predict_command(toys, data, tmp_path / "out.csv"))
    assert seen == [False]
    assert torch.backends.mkldnn.enabled == enabled


@pytest.mark.parametrize("place", [("cuda", torch.float32), ("cpu", torch.bfloat16)])
def test_onednn_stays_where_matrix_products_may_need_it(place):
    before = torch.backends.mkldnn.enabled
    with without_shape_cache(torch.device(place[0]), place[1]):
        assert torch.backends.mkldnn.enabled == before


# The subprocess answers few rows at a time and slowly, so that a kill finds it in the middle.
SLOWLY = """
import sys, time
from sharcs_cli import app as cli
from sharcs.inference import engine
from sharcs.inference import predict as prediction

class Slow(engine.InferenceEngine):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, window=8, **kwargs)

    def _answer(self, tokens):
        time.sleep(0.05)
        return super()._answer(tokens)

prediction.InferenceEngine = Slow
cli.main()
"""


def start_slowly(command, folder, windows):
    """Start the command in another process, and wait until so many windows are on the disk."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as the tests: other threads round otherwise
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and len(parts_in(folder)) < windows:
        time.sleep(0.005)
    assert process.poll() is None
    return process


def kill_in_the_middle(command, folder, windows):
    """Start the command in another process and kill it when so many windows are on the disk."""
    process = start_slowly(command, folder, windows)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "suffix", ["csv", *(pytest.param(suffix, marks=EXTENDED) for suffix in ("parquet", "jsonl.gz"))]
)
def test_a_killed_run_goes_on_to_the_same_bytes(toys, tmp_path, suffix, small_windows, monkeypatch):
    data = write_csv(tmp_path / "data.csv", rows_of(400))
    whole, output = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    succeeds(*predict_command(toys, data, whole))
    before = set(os.listdir(tmp_path))
    command = predict_command(toys, data, output)
    folder = tmp_path / f".out.{suffix}.sharcs-partial"
    kill_in_the_middle(command, folder, windows=3)
    assert not output.exists()
    kill_in_the_middle(command, folder, windows=9)
    answered = len(parts_in(folder))
    assert 9 <= answered < 50
    run, asked = InferenceEngine._answer, []
    monkeypatch.setattr(InferenceEngine, "_answer", lambda self, tokens: asked.append(1) or run(self, tokens))
    message = succeeds(*command).err
    assert f"; {8 * answered} of them were answered before" in message
    assert len(asked) == 50 - answered
    assert output.read_bytes() == whole.read_bytes()
    assert set(os.listdir(tmp_path)) == before | {output.name}


@pytest.fixture
def stopped(toys, tmp_path, small_windows, monkeypatch):
    """Stop a run by Ctrl-C after 5 of 10 windows; returns the command, and how many windows a run asks for."""
    data = write_csv(tmp_path / "data.csv", rows_of(80))
    command = predict_command(toys, data, tmp_path / "out.csv")
    run, asked = InferenceEngine._answer, []

    def counted(self, tokens):
        if len(asked) == 5 and stop:
            raise KeyboardInterrupt
        asked.append(1)
        return run(self, tokens)

    monkeypatch.setattr(InferenceEngine, "_answer", counted)
    stop = True
    result = sharcs(*command)
    assert result.code == 130
    assert "the same command goes on" in result.err
    assert not (tmp_path / "out.csv").exists()
    stop = False
    asked.clear()
    return command, asked


def finish(command, tmp_path, toys, asked):
    """Finish a run, and compare it with one from the beginning."""
    succeeds(*command)
    count = len(asked)
    assert not (tmp_path / PARTIAL).exists()
    data, options = command[3], command[6:]
    succeeds(*predict_command(toys, data, tmp_path / "fresh.csv", *options))
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    return count


def test_an_interrupted_run_goes_on(stopped, toys, tmp_path):
    command, asked = stopped
    assert finish(command, tmp_path, toys, asked) == 5


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_part_that_was_cut_short_is_answered_again(stopped, toys, tmp_path, cut):
    command, asked = stopped
    part = parts_in(tmp_path / PARTIAL)[3]
    part.write_bytes(part.read_bytes()[:cut])
    assert finish(command, tmp_path, toys, asked) == 6


def change_first_text(rows):
    rows[0]["text"] = "another text"


def change_later_text(rows):
    rows[20]["text"] = "another text"


def change_other_column(rows):
    rows[0]["id"] = "another id"


def insert_row(rows):
    rows.insert(10, {"text": "one more", "id": "x"})


@pytest.mark.parametrize(
    ("change", "again"), [(change_first_text, 6), (change_later_text, 6), (change_other_column, 5), (insert_row, 10)]
)
def test_a_changed_input_gets_answers_of_its_own(stopped, toys, tmp_path, change, again):
    command, asked = stopped
    rows = rows_of(80)
    change(rows)
    write_csv(tmp_path / "data.csv", rows)
    assert finish(command, tmp_path, toys, asked) == again


def test_another_width_or_model_begins_anew(stopped, toys, tmp_path):
    command, asked = stopped
    assert finish((*command, "--width", "0.25"), tmp_path, toys, asked) == 10


def test_another_model_in_the_same_folder_begins_anew(toys, stopped, tmp_path, monkeypatch):
    command, asked = stopped
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(toys.model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["policy"] = {"cost_weight": -9.0}
    (folder / "config.json").write_text(json.dumps(config))
    succeeds("predict", folder, *command[2:])
    assert len(asked) == 10
    assert {row["width"] for row in read_csv(tmp_path / "out.csv")} == {"1.0"}


@pytest.mark.parametrize(
    ("suffix", "broken", "says"),
    [
        ("csv", "too,many,fields\n", "row 20001 (line 20002): 3 fields"),
        ("csv", " ,9\n", "row 20001: the text is empty"),
        ("jsonl", '{"text": 3}\n', "row 20001: the text '3' is no string"),
        ("jsonl", "{\n", "row 20001 (line 20001): not valid JSON"),
    ],
)
def test_a_wrong_row_late_in_a_file_is_found_before_any_answer(toys, tmp_path, monkeypatch, suffix, broken, says):
    data = tmp_path / f"data.{suffix}"
    good = "it is fine,1\n" if suffix == "csv" else '{"text": "it is fine", "id": "1"}\n'
    data.write_text(("text,id\n" if suffix == "csv" else "") + good * 20_000 + broken + good)
    monkeypatch.setattr(InferenceEngine, "_answer", None)
    before = files_in(tmp_path)
    assert says in error_message(sharcs(*predict_command(toys, data, tmp_path / "out.csv")))
    assert files_in(tmp_path) == before


def test_few_rows_are_in_memory_however_slow_the_network_is(toys, tmp_path, small_windows, monkeypatch):
    data = write_csv(tmp_path / "data.csv", rows_of(400))
    monkeypatch.setattr(textfiles.in_chunks, "__defaults__", (8,))
    read, answered, most = [0], [0], [0]
    windows, write_part = prediction.TextStream.windows, AnswerRecord.write

    def counted(self, size):
        for rows, texts in windows(self, size):
            read[0] += len(texts)
            yield rows, texts

    def slow(self, window, fingerprint, answers, cut):
        time.sleep(0.002)
        most[0] = max(most[0], read[0] - answered[0])
        answered[0] += len(answers)
        write_part(self, window, fingerprint, answers, cut)

    monkeypatch.setattr(prediction.TextStream, "check", lambda self: 400)
    monkeypatch.setattr(prediction.TextStream, "windows", counted)
    monkeypatch.setattr(AnswerRecord, "write", slow)
    succeeds(*predict_command(toys, data, tmp_path / "out.csv"))
    assert answered[0] == 400
    assert most[0] <= 5 * WINDOW


def test_a_file_that_changes_meanwhile_is_refused(stopped, tmp_path, monkeypatch):
    command, _ = stopped
    join = prediction._join

    def changed(*args):
        rows = rows_of(80)
        rows[70]["text"] = "another text"
        write_csv(tmp_path / "data.csv", rows)
        join(*args)

    monkeypatch.setattr(prediction, "_join", changed)
    message = error_message(sharcs(*command))
    assert message == f"{tmp_path / 'data.csv'}: has changed while its rows were answered; run it again"
    assert not (tmp_path / "out.csv").exists()
    monkeypatch.setattr(prediction, "_join", join)
    succeeds(*command)
    assert read_csv(tmp_path / "out.csv")[70]["text"] == "another text"


# Two runs on one output


@pytest.mark.extended  # test_cli_locks.py shows it for every command
def test_a_second_run_on_one_output_is_refused_at_once(toys, tmp_path, monkeypatch):
    first, second = (write_csv(tmp_path / f"{name}.csv", rows_of(count)) for name, count in (("a", 1200), ("b", 9)))
    output = tmp_path / "out.csv"
    process = start_slowly(predict_command(toys, first, output), tmp_path / PARTIAL, windows=3)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("sharcs.inference.folder.open_model", None)  # nothing is opened before
            message = error_message(sharcs(*predict_command(toys, second, output)))
        assert message == (
            f"{output}: process {process.pid} on {socket.gethostname()} is writing it; wait for that run, or name "
            "another output"
        )
        assert process.poll() is None
        with pytest.raises(InputError, match=f"process {process.pid} on "), recorded(output):
            pass
        succeeds(*predict_command(toys, second, tmp_path / "other.csv"))
    finally:
        assert process.wait(120) == 0
    assert [row["text"] for row in read_csv(output)] == [row["text"] for row in rows_of(1200)]
    assert set(os.listdir(tmp_path)) == {"a.csv", "b.csv", "out.csv", "other.csv"}


@pytest.mark.extended  # the same
def test_the_lock_of_a_dead_process_does_not_stay(toys, tmp_path, small_windows):
    data = write_csv(tmp_path / "data.csv", rows_of(400))
    command = predict_command(toys, data, tmp_path / "out.csv")
    kill_in_the_middle(command, tmp_path / PARTIAL, windows=3)
    assert (tmp_path / ".out.csv.sharcs-lock").read_text().startswith("process ")
    succeeds(*command)
    assert set(os.listdir(tmp_path)) == {"data.csv", "out.csv"}


def claim_again_and_again(output):
    """Claim an output many times; a second claim at the same time finds the file of the first."""
    claims = 0
    while claims < 100:
        with contextlib.suppress(InputError), recorded(output) as record:
            marker = output.with_name("claimed")
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            record.write(claims % 2, "fingerprint", pa.table({"x": [claims]}))
            assert record.read(claims % 2, "fingerprint")["x"].to_pylist() == [claims]
            marker.unlink()
            claims += 1


def test_one_process_at_a_time_has_an_output(tmp_path):
    """Also while whoever has it removes the folder in which the lock is."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=claim_again_and_again, args=(tmp_path / "out.csv",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_locks(toys, tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    data = write_csv(tmp_path / "data.csv", rows_of(9))
    succeeds(*predict_command(toys, data, tmp_path / "out.csv"))
    assert len(read_csv(tmp_path / "out.csv")) == 9


def test_scores_of_all_classes_are_columns(toys, tmp_path):
    succeeds("predict", toys.model, "--data", toys.test, "--output", tmp_path / "out.csv", "--scores")
    rows = read_csv(tmp_path / "out.csv")
    plain = one_by_one(toys.model, [row["text"] for row in rows])
    for row, (name, score, width) in zip(rows, plain, strict=True):
        assert (row["prediction"], float(row["width"])) == (name, width)
        assert float(row[f"score_{name}"]) == float(row["score"]) == pytest.approx(score, abs=1e-5)
        assert float(row["score_good"]) + float(row["score_bad"]) == pytest.approx(1)
