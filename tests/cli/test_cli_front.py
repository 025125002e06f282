"""Sub-networks in front of the encoder on the command line, from training to export."""

import json
import shutil
from collections import Counter

import pytest

from helpers.cli import error_message, read_csv, save_encoder, sharcs, succeeds, toy_rows, write_csv
from sharcs import InferenceEngine
from sharcs.inference.folder import open_model
from sharcs.stored import Promise
from sharcs_runtime import OnnxRunner

NAMES = ["recurrent", "compact", "width-25", "full"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model with everything in front, its files, and what the training said."""
    folder = tmp_path_factory.mktemp("front")
    write_csv(folder / "train.csv", toy_rows(400))
    write_csv(folder / "held.csv", toy_rows(160, seed=1))
    write_csv(folder / "more.csv", [{"text": row["text"]} for row in toy_rows(300, seed=2)])
    encoder = save_encoder(folder / "encoder", layers=4)
    run = succeeds(
        "train", "--data", folder / "train.csv", "--model", encoder, "--output", folder / "model", "--epochs", 4,
        "--learning-rate", 3e-3, "--max-length", 16, "--sub-networks", "recurrent,compact,0.25,full",
        "--unlabelled", folder / "more.csv", "--validation", folder / "held.csv",
    )  # fmt: skip
    return folder, run


def test_a_training_chooses_a_policy_and_says_what_it_promises(trained):
    folder, run = trained
    config = open_model(folder / "model").model.config
    assert config.names == NAMES
    promise = Promise(**config.promise)
    assert promise.policy == config.policy
    assert promise.rows == 80
    for line in promise.lines():
        assert line in run.err
    assert "trained the sub-networks in front of the encoder" in run.err
    assert "held-out rows" in (folder / "model" / "README.md").read_text()


def test_predictions_name_the_sub_network(trained, tmp_path):
    folder, _ = trained
    succeeds("predict", folder / "model", "--data", folder / "held.csv", "--output", tmp_path / "out.csv")
    rows = read_csv(tmp_path / "out.csv")
    opened = open_model(folder / "model")
    expected = list(InferenceEngine(opened.model, opened.tokenizer).predict(row["text"] for row in rows))
    assert [row["sub_network"] for row in rows] == [NAMES[each.width_index] for each in expected]
    succeeds("predict", folder / "model", "--data", folder / "held.csv", "--output", tmp_path / "one.csv",
             "--width", "compact")  # fmt: skip
    assert {row["sub_network"] for row in read_csv(tmp_path / "one.csv")} == {"compact"}


def test_evaluation_calibration_report_and_export_know_it(trained, tmp_path):
    folder, _ = trained
    model = folder / "model"
    run = succeeds("evaluate", model, "--data", folder / "held.csv", "--json", tmp_path / "found.json")
    report = json.loads((tmp_path / "found.json").read_text())
    assert [width["width"] for width in report["widths"]] == ["recurrent", "compact", 0.25, 1.0]
    assert report["widths"][0]["flops_ratio"] < report["widths"][1]["flops_ratio"] < 0.6
    assert "compact" in run.out
    succeeds("report", model, "--data", folder / "held.csv", "--output", tmp_path / "report.html")
    assert "the recurrent network" in (tmp_path / "report.html").read_text()
    succeeds("export", model, "--output", tmp_path / "export")
    opened = open_model(model)
    texts = [row["text"] for row in read_csv(folder / "held.csv")]
    found = list(OnnxRunner(tmp_path / "export").predict(texts))
    expected = list(InferenceEngine(opened.model, opened.tokenizer).predict(texts))
    assert Counter(a.width_index == b.width_index for a, b in zip(found, expected, strict=True)) == {True: 160}
    copied = shutil.copytree(model, tmp_path / "calibrated")
    write_csv(tmp_path / "rows.csv", toy_rows(600, seed=5))
    succeeds("calibrate", copied, "--data", tmp_path / "rows.csv", "--max-accuracy-drop", 0.1)
    config = open_model(copied).model.config
    assert config.calibration["met"]
    assert config.routing_policy.start in ("recurrent", "compact")
    assert config.calibration["bound"] <= 0.1
    assert config.calibration["cost_ratio"] < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--unlabelled", "train.csv"), "--unlabelled train.csv: is for what answers before the encoder runs"),
        (("--sub-networks", "0.25,recurrent,1.0"), "name the cheapest first, full last"),
        (("--sub-networks", "recurrent,lstm"), "is no list of numbers"),
        (("--sub-networks", "recurrent,full", "--recipe", "paper"), "the paper's recipe has none"),
        (("--sub-networks", "recurrent,full", "--validation", "others.csv"), "is not among the classes"),
    ],
)
def test_options_that_don_t_fit_are_refused_before_the_work(trained, tmp_path, options, words, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    write_csv(folder / "others.csv", [{"text": "a", "label": "unheard of"}] * 3)
    run = sharcs("train", "--data", "train.csv", "--model", "encoder", "--output", tmp_path / "new", *options)
    assert words in error_message(run)
    assert not (tmp_path / "new").exists()
