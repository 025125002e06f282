"""A real training of the real encoder on real texts, through the command line, from data to predictions."""

import json
import sys
from collections import Counter

import pyarrow.csv
import pytest

from sharcs.data.named import builtin_table
from sharcs.data.tables import write_table
from sharcs_cli import app as cli

TRAIN_ROWS, TEST_ROWS = 250, 200


def sharcs(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["sharcs", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0


@pytest.mark.slow
def test_minilm_learns_reuters_far_above_the_majority_class(tmp_path, monkeypatch):
    test = builtin_table("reuters-r8", "test")
    step = len(test) // TEST_ROWS
    test = test.take(list(range(0, step * TEST_ROWS, step)))
    write_table(test, tmp_path / "test.csv")
    majority = Counter(test["label"].to_pylist()).most_common(1)[0][1] / TEST_ROWS
    model = tmp_path / "model"
    sharcs(
        monkeypatch, "train", "--data", "reuters-r8:train", "--max-train-samples", TRAIN_ROWS, "--output", model,
        "--max-length", 24, "--epochs", 4, "--learning-rate", 3e-4,
    )  # fmt: skip
    sharcs(monkeypatch, "evaluate", model, "--data", tmp_path / "test.csv", "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["samples"] == TEST_ROWS
    assert report["full"]["accuracy"] > majority + 0.25
    assert report["routed"]["accuracy"] > majority + 0.25
    assert report["oracle"]["accuracy"] >= max(width["accuracy"] for width in report["widths"])

    sharcs(monkeypatch, "predict", model, "--data", tmp_path / "test.csv", "--output", tmp_path / "out.csv")
    rows = pyarrow.csv.read_csv(tmp_path / "out.csv").to_pylist()
    assert [row["text"] for row in rows] == test["text"].to_pylist()
    right = sum(row["prediction"] == row["label"] for row in rows) / TEST_ROWS
    assert right == pytest.approx(report["routed"]["accuracy"], abs=1e-12)
    shares = Counter(row["width"] for row in rows)
    for width in report["widths"]:
        assert shares[width["width"]] / TEST_ROWS == pytest.approx(width["share"], abs=1e-6)
