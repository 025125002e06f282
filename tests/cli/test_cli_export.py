"""The command ``sharcs export`` on real files: what it writes, against transformers alone; and what it refuses."""

import json
import sys

import pytest
from tokenizers import Tokenizer

from helpers.cli import MAX_LENGTH, error_message, files_in, one_by_one, read_csv, sharcs, succeeds, toys_fixture  # noqa: F401
from sharcs.errors import InputError
from sharcs.export import graphs as export_module
from sharcs_runtime import OnnxRunner


def texts_of(file):
    return [row["text"] for row in read_csv(file)]


def assert_same(runner, found, expected, tolerance=1e-5):
    assert [runner.labels[answer.class_index] for answer in found] == [name for name, _, _ in expected]
    assert [runner.widths[answer.width_index] for answer in found] == [width for _, _, width in expected]
    assert [answer.score for answer in found] == pytest.approx([score for _, score, _ in expected], abs=tolerance)


def test_a_routed_export_answers_as_transformers_does(toys, tmp_path):
    before = files_in(toys.model)
    output = tmp_path / "deep" / "onnx"
    run = succeeds("export", toys.model, "--output", output)
    assert str(output) in run.err
    assert sorted(path.name for path in output.iterdir()) == [
        "sharcs.json", "tail-0.onnx", "tail-1.onnx", "tokenizer.json", "trunk.onnx",
    ]  # fmt: skip
    assert [path.name for path in output.parent.iterdir()] == ["onnx"]
    assert files_in(toys.model) == before
    texts = [*texts_of(toys.test), "never ending " * 400]
    expected = one_by_one(toys.model, texts)
    assert {width for _, _, width in expected} == {0.25, 1.0}
    runner = OnnxRunner(output, threads=1)
    assert_same(runner, list(runner.predict(texts)), expected)
    content = json.loads((output / "sharcs.json").read_text())
    config = json.loads((toys.model / "config.json").read_text())
    assert content["policy"] == {"cost_weight": 0.0, "escalation_threshold": None, "blend": 0.0} | config["policy"]
    assert content["labels"] == [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
    assert (content["format"], content["int8"], content["max_length"]) == (2, False, MAX_LENGTH)
    assert [(entry["name"], entry["width"]) for entry in content["subnetworks"]] == [
        ("width-25", 0.25),
        ("full", 1.0),
    ]
    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    assert len(tokenizer.encode(texts[-1]).ids) == MAX_LENGTH


def test_one_width_in_int8_is_a_dense_model(toys, tmp_path):
    (tmp_path / "out").mkdir()  # an empty directory is as good as none
    succeeds("export", toys.model, "--output", tmp_path / "out", "--width", 0.25, "--int8")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model.onnx", "sharcs.json", "tokenizer.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "sharcs.json").read_text())["int8"] is True
    runner = OnnxRunner(tmp_path / "out", threads=1)
    assert runner.widths == [0.25]
    found = list(runner.predict(texts_of(toys.test)))
    expected = one_by_one(toys.model, texts_of(toys.test), width=0.25)
    same = [runner.labels[a.class_index] == name for a, (name, _, _) in zip(found, expected, strict=True)]
    assert sum(same) >= 0.9 * len(same)
    assert {answer.width_index for answer in found} == {0}
    with pytest.raises(InputError, match=r"width 1\.0: the exported network has 0\.25"):
        OnnxRunner(tmp_path / "out", width=1.0)
    succeeds("predict", tmp_path / "out", "--data", toys.test, "--output", tmp_path / "answers.csv")
    rows = read_csv(tmp_path / "answers.csv")
    assert [row["prediction"] for row in rows] == [runner.labels[a.class_index] for a in found]


def test_an_output_that_is_in_use_is_refused(toys, tmp_path):
    file, full = tmp_path / "file", tmp_path / "full"
    file.write_text("x")
    full.mkdir()
    (full / "notes.txt").write_text("x")
    before = files_in(tmp_path)
    assert "is a file" in error_message(sharcs("export", toys.model, "--output", file))
    assert "is in use" in error_message(sharcs("export", toys.model, "--output", full))
    assert files_in(tmp_path) == before


def test_what_else_is_refused(toys, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert "no such directory" in error_message(sharcs("export", tmp_path / "nothing", "--output", out))
    assert "is a bert model" in error_message(sharcs("export", toys.encoder, "--output", out))
    assert "0.3" in error_message(sharcs("export", toys.model, "--output", out, "--width", 0.3))
    (tmp_path / "file").write_text("x")
    below = tmp_path / "file" / "out"
    assert "can't be written" in error_message(sharcs("export", toys.model, "--output", below))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 'sharcs[train]'" in error_message(sharcs("export", toys.model, "--output", out))
    assert not out.exists()


def test_nothing_is_left_of_an_export_that_fails(toys, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_graph", lambda part, example, file: file.write_bytes(b"half"))
    monkeypatch.setattr(export_module, "check_graph", full_disk)
    message = error_message(sharcs("export", toys.model, "--output", tmp_path / "out"))
    assert "No space left" in message
    assert files_in(tmp_path) == {}
