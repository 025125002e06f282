"""The command ``sharcs calibrate`` on real files: what it stores and says, and how it ends."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from helpers.cli import (
    error_message,
    files_in,
    read_csv,
    sharcs,
    succeeds,
    toy_rows,
    toys_fixture,  # noqa: F401
    write_csv,
)
from sharcs.data.tables import read_table
from sharcs.data.texts import fingerprint
from sharcs.export.bundle import kept_of
from sharcs.inference import folder as artifacts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make 500 labelled rows with a column that says where each is from."""
    rows = [{**row, "source": f"desk {number % 3}"} for number, row in enumerate(toy_rows(500, seed=2))]
    return write_csv(tmp_path_factory.mktemp("calibration") / "data.csv", rows)


@pytest.fixture
def folder(toys, tmp_path):
    """Copy the trained model, since calibration writes into it."""
    return shutil.copytree(toys.model, tmp_path / "model")


def stored(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config["policy"], config["calibration"]


@pytest.mark.parametrize(
    ("option", "limit", "words"),
    [
        ("--budget", 0.85, "mean FLOPs"),
        ("--max-disagreement", 0.2, "disagreement with the full network"),
        ("--max-accuracy-drop", 0.15, "loss of accuracy"),
    ],
)
def test_policy_and_evidence_are_stored_and_said(option, limit, words, folder, data):
    before = files_in(folder)
    run = succeeds("calibrate", folder, "--data", data, option, limit)
    policy, evidence = stored(folder)
    assert evidence["kind"] == option.strip("-").replace("-", "_")
    assert (evidence["limit"], evidence["confidence"], evidence["rows"]) == (limit, 0.95, 500)
    assert evidence["met"] is True
    assert evidence["observed"] < evidence["bound"] <= limit
    assert evidence["policy"] == policy
    assert evidence["data"] == str(data)
    assert evidence["data_sha256"] == fingerprint(read_table(str(data)).column("text").to_pylist())
    assert words in run.out
    assert f"limit {limit:g}" in run.out
    assert "calibrated" in run.out
    # The rest of the directory, and of the file, is as it was.
    after = files_in(folder)
    old, new = (json.loads(files.pop("config.json")) for files in (before, after))
    assert after == before
    assert {**new, "policy": old["policy"]} == {**old, "calibration": evidence}
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.policy == policy
    model.set_budget(0.9)


def test_evaluation_uses_the_policy(folder, data, tmp_path):
    succeeds("calibrate", folder, "--data", data, "--max-disagreement", 0.2)
    succeeds("evaluate", folder, "--data", data, "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    _, evidence = stored(folder)
    assert report["routed"]["flops_ratio"] == pytest.approx(
        evidence["cost_ratio"], abs=0.05
    )  # of the other rows, too


def test_milliseconds(folder, data):
    run = succeeds("calibrate", folder, "--data", data, "--latency-ms", 60_000)
    assert "measured on this machine" in run.err
    assert stored(folder)[1]["shares"] == [0.0, 1.0]  # time enough for the full network
    assert sharcs("calibrate", folder, "--data", data, "--latency-ms", 1e-6).code == 3


def test_losses_by_class_and_column(folder, data):
    options = ("--max-accuracy-drop", 0.3, "--per-class", "--group-column", "source")
    run = succeeds("calibrate", folder, "--data", data, *options)
    _, evidence = stored(folder)
    assert {entry["value"] for entry in evidence["classes"]} == {"good", "bad"}
    assert {entry["value"] for entry in evidence["groups"]} == {"desk 0", "desk 1", "desk 2"}
    assert sum(entry["rows"] for entry in evidence["groups"]) == evidence["rows_tested"] == 400
    assert evidence["per_class"] is True
    worst = max(entry["accuracy_drop"] for entry in evidence["classes"])
    assert evidence["observed"] <= worst  # of the class whose bound is the highest
    assert "by source" in run.out
    assert "desk 1" in run.out


def test_texts_without_labels(folder, data, tmp_path):
    rows = read_csv(data)
    bare = write_csv(tmp_path / "bare.csv", [{"text": row["text"]} for row in rows])
    foreign = write_csv(tmp_path / "foreign.csv", [{"text": row["text"], "label": "unheard of"} for row in rows])
    policies = []
    for file in (data, bare, foreign):
        succeeds("calibrate", folder, "--data", file, "--max-disagreement", 0.2)
        policies.append(stored(folder)[0])
        assert (stored(folder)[1]["accuracy"] is None) == (file != data)
    assert policies[0] == policies[1] == policies[2]
    error_message(sharcs("calibrate", folder, "--data", bare, "--max-accuracy-drop", 0.2))
    assert "unheard of" in error_message(sharcs("calibrate", folder, "--data", foreign, "--max-accuracy-drop", 0.2))


@pytest.mark.parametrize(
    "options", [("--max-disagreement", 0.001), ("--budget", 0.01), ("--max-accuracy-drop", 1e-4)]
)
def test_a_limit_that_nothing_keeps_ends_with_its_own_code(options, folder, data):
    run = sharcs("calibrate", folder, "--data", data, *options)
    assert run.code == 3
    assert run.out == ""
    line = run.err.splitlines()[-1]
    assert line.startswith("sharcs: no policy keeps " + options[0])
    assert "full network" in line
    _, evidence = stored(folder)
    assert evidence["met"] is False
    assert evidence["shares"] == [0.0, 1.0]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[101, 2009, 102]])).width_index.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "none of --budget, --latency-ms, --max-accuracy-drop, --max-disagreement given; give exactly one"),
        (("--budget", 0.5, "--max-disagreement", 0.1), "2 of --budget"),
        (("--budget", 0), "--budget 0: has to be above 0"),
        (("--budget", "nan"), "--budget nan"),
        (("--latency-ms", -3), "--latency-ms -3"),
        (("--max-disagreement", 1), "--max-disagreement 1"),
        (("--max-accuracy-drop", -0.1), "--max-accuracy-drop -0.1"),
        (("--max-disagreement", 0.1, "--confidence", 1), "--confidence 1"),
        (("--budget", 0.5, "--per-class"), "--per-class"),
        (("--budget", 0.5, "--group-column", "desk"), "no column 'desk'; it has 'text', 'label', 'source'"),
        (("--budget", 0.5, "--text-column", "words"), "no column 'words'"),
    ],
)
def test_what_is_refused_changes_nothing(options, says, folder, data):
    before = files_in(folder)
    assert says in error_message(sharcs("calibrate", folder, "--data", data, *options))
    assert files_in(folder) == before


def test_too_few_rows(folder, tmp_path):
    few = write_csv(tmp_path / "few.csv", toy_rows(9))
    assert "9 rows: too few" in error_message(sharcs("calibrate", folder, "--data", few, "--budget", 0.5))


def test_no_half_written_configuration_is_left(folder, data, monkeypatch):
    before = files_in(folder)

    def full_disk(path, text, **_):
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts.Path, "write_text", full_disk)
    message = error_message(sharcs("calibrate", folder, "--data", data, "--budget", 0.85))
    assert "No space left" in message
    assert files_in(folder) == before


def test_a_ladder_is_stored_said_and_exported(folder, data):
    run = succeeds("calibrate", folder, "--data", data, "--ladder", "0.2,0.3,0.9")
    policy, evidence = stored(folder)
    assert (evidence["kind"], evidence["limit"], evidence["met"]) == ("max_disagreement", 0.2, True)
    assert [rung["limit"] for rung in evidence["ladder"]] == [0.2, 0.3]
    assert evidence["ladder"][0]["policy"] == policy == evidence["policy"]
    assert all(rung["bound"] <= rung["limit"] for rung in evidence["ladder"])
    assert "the ladder" in run.out
    assert "limit 0.9: nothing cheaper than the rung before" in run.err  # that of 0.3 never goes on
    kept = kept_of(evidence)
    assert (kept["ladder"], kept["frontier"]) == (evidence["ladder"], evidence["frontier"])
    assert "data" not in kept  # the name of a file is nobody's business


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--ladder", "0.2,0.1"), "--ladder 0.2,0.1: limits of disagreement have to ascend"),
        (("--ladder", "a"), "--ladder a: has to be numbers with commas between them"),
        (("--ladder", "0.1", "--budget", "0.5"), "--ladder: takes neither another limit nor --per-class"),
        (("--ladder", "0.1", "--per-class"), "--ladder: takes neither another limit nor --per-class"),
    ],
)
def test_a_wrong_ladder_is_refused(folder, data, options, says):
    before = files_in(folder)
    assert says in error_message(sharcs("calibrate", folder, "--data", data, *options))
    assert files_in(folder) == before
