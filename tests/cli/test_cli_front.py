"""Sub-networks in front of the encoder on the command line, from training to export."""

import json
import shutil
from collections import Counter

import pytest
from scipy.stats import binomtest

from helpers.cli import error_message, read_csv, save_encoder, sharcs, succeeds, toy_rows, write_csv
from sharcs import InferenceEngine
from sharcs.calibration.choice import Constraint
from sharcs.calibration.promise import halves
from sharcs.data.texts import load_texts
from sharcs.inference.folder import open_model
from sharcs.jobs.held_out import choose_policy
from sharcs.stored import Promise
from sharcs_runtime import OnnxRunner

NAMES = ["lexical", "recurrent", "compact", "width-25", "full"]


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
        "--learning-rate", 3e-3, "--max-length", 16, "--sub-networks", "lexical,recurrent,compact,0.25,full",
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
    assert [width["width"] for width in report["widths"]] == ["lexical", "recurrent", "compact", 0.25, 1.0]
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
    assert config.routing_policy.start in ("lexical", "recurrent", "compact")
    assert config.calibration["bound"] <= 0.1
    assert config.calibration["cost_ratio"] < 1
    run = succeeds("evaluate", tmp_path / "export", "--data", folder / "held.csv", "--json", tmp_path / "same.json")
    same = json.loads((tmp_path / "same.json").read_text())
    for key in ("accuracy", "flops_ratio"):
        assert same["routed"][key] == pytest.approx(report["routed"][key])
        assert [w[key] for w in same["widths"]] == [pytest.approx(w[key]) for w in report["widths"]]
    succeeds("calibrate", tmp_path / "export", "--data", tmp_path / "rows.csv", "--max-accuracy-drop", 0.1)
    found = OnnxRunner(tmp_path / "export").config
    ours, theirs = (policy.to_dict() for policy in (config.routing_policy, found.policy))
    # What the runtimes compute differs in the last digits, and so do thresholds, which are scores.
    assert theirs.pop("escalation_threshold") == pytest.approx(ours.pop("escalation_threshold"), abs=1e-5)
    assert theirs == ours
    for key in ("cost_ratio", "bound", "disagreement"):
        assert found.calibration[key] == pytest.approx(config.calibration[key])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--unlabelled", "train.csv", "--widths", "0.25,1.0"),
            "--unlabelled train.csv: is for what answers before the encoder runs",
        ),
        (("--sub-networks", "0.25,recurrent,1.0"), "name the cheapest first, full last"),
        (("--sub-networks", "recurrent,lstm"), "'lstm' is no sub-network"),
        (("--sub-networks", "recurrent,full", "--recipe", "paper"), "the paper's recipe has none"),
        (("--sub-networks", "recurrent,full", "--validation", "others.csv"), "is not among the classes"),
        (
            ("--budget", "0.5"),
            "at least 100 held-out rows, and there are 0; give them as --valid",
        ),
        (
            ("--max-disagreement", "0.01", "--validation", "held.csv"),
            "takes at least 597 held-out rows",
        ),
        (("--widths", "1.0", "--budget", "0.5"), "there is one sub-network only, so nothing can be chosen"),
        (
            ("--max-accuracy-drop", "0.1", "--budget", "0.5"),
            "2 of --budget, --max-accuracy-drop given; give one",
        ),
        (("--budget", "1.5"), "--budget 1.5: has to be above 0 and at most 1"),
    ],
)
def test_options_that_don_t_fit_are_refused_before_the_work(trained, tmp_path, options, words, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    write_csv(folder / "others.csv", [{"text": "a", "label": "unheard of"}] * 3)
    run = sharcs("train", "--data", "train.csv", "--model", "encoder", "--output", tmp_path / "new", *options)
    assert words in error_message(run)
    assert not (tmp_path / "new").exists()


def test_a_limit_is_kept_on_the_rows_that_nothing_chose(trained):
    folder, _ = trained
    opened = open_model(folder / "model")
    write_csv(folder / "many.csv", toy_rows(800, seed=7))
    held_out = load_texts(str(folder / "many.csv"))
    choose_policy(opened, held_out, 3, Constraint("max_disagreement", 0.05))
    config = opened.model.config
    read_once = halves(800, 3)[1]
    engine = InferenceEngine(opened.model, opened.tokenizer)
    routed = [answer.class_index for answer in engine.predict([held_out.texts[row] for row in read_once])]
    engine = InferenceEngine(opened.model, opened.tokenizer, width=1.0)
    full = [answer.class_index for answer in engine.predict([held_out.texts[row] for row in read_once])]
    differing = sum(a != b for a, b in zip(routed, full, strict=True))
    promise = Promise(**config.promise)
    assert promise.disagreement == differing / 400
    assert (promise.rows, promise.disagreement_bound, promise.loss_bound) == (400, 0.05, None)
    assert binomtest(differing, 400, 0.05, alternative="less").pvalue <= 0.05
    assert promise.cost_ratio < 1
    assert config.calibration["met"]
    assert config.calibration["rows_tested"] == 400  # the half that chose nothing
    assert "at most 5.0% of the answers are not the full network's" in promise.lines()[1]
    assert "points are lost" not in promise.lines()[1]
    choose_policy(opened, held_out, 3, Constraint("budget", 0.3))
    assert config.calibration["cost_ratio"] <= Promise(**config.promise).cost_bound == 0.3


def test_a_limit_that_no_policy_keeps_leaves_the_full_network_and_exit_code_3(trained, tmp_path, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    with pytest.warns(UserWarning, match="`budget` 0.001: no policy keeps it on 80 held-out rows; every input goes"):
        run = sharcs(
            "train", "--data", "train.csv", "--model", "encoder", "--output", tmp_path / "new", "--epochs", 1,
            "--max-length", 16, "--validation", "held.csv", "--budget", 0.001,
        )  # fmt: skip
    assert run.code == 3
    config = open_model(tmp_path / "new").model.config
    assert config.routing_policy.start == "full"
    assert config.promise["accuracy"] == config.promise["full_accuracy"]
    assert not config.calibration["met"]
