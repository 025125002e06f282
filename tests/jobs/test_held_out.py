"""The rows that a training holds out, and the trial of the read-out that they judge."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from helpers.cli import read_csv, save_encoder, succeeds, toy_rows, write_csv
from sharcs.calibration.promise import halves
from sharcs.data.texts import TextData, load_texts
from sharcs.inference.folder import open_model
from sharcs.jobs.held_out import split
from sharcs.jobs.trial import RESULT, Trial, accuracy_of
from sharcs.spec import FIRST, MEAN


def data_of(count):
    labels = [("common", "common", "common", "rare")[row % 4] for row in range(count)]
    texts = [f"text {row}" for row in range(count)]
    return TextData(pa.table({"text": texts}), texts, None, labels, "rows.csv")


@pytest.mark.parametrize(("count", "held"), [(999, None), (1000, 100), (2400, 240), (2500, 500), (8000, 800)])
def test_a_tenth_is_held_out_of_each_class_its_share(count, held):
    kept, out = split(data_of(count), seed=3)
    if held is None:
        assert (len(kept), out) == (count, None)
        return
    assert (len(out), len(kept)) == (held, count - held)
    assert sorted([*kept.texts, *out.texts]) == sorted(data_of(count).texts)
    assert Counter(out.labels)["rare"] == pytest.approx(held / 4, abs=1)
    assert [out.row(index) for index in (0, 7)] == [int(out.texts[index].split()[1]) + 1 for index in (0, 7)]
    assert out.table["text"].to_pylist() == out.texts
    assert split(data_of(count), seed=3)[1].texts == out.texts
    assert split(data_of(count), seed=4)[1].texts != out.texts


def test_a_trial_keeps_the_better_read_out_and_is_not_repeated(tmp_path, monkeypatch):
    asked = []
    scores = {FIRST: 0.7, MEAN: 0.8}
    monkeypatch.setattr(Trial, "_score", lambda self, readout, folder: asked.append(readout) or scores[readout])
    trial = Trial(None, None, None, None, SimpleNamespace(resume=False))
    assert trial.readout(tmp_path) == MEAN
    again = Trial(None, None, None, None, SimpleNamespace(resume=True))
    assert again.readout(tmp_path) == MEAN
    assert asked == [FIRST, MEAN]
    assert (tmp_path / RESULT).read_text() == MEAN
    scores[FIRST] = 0.8
    assert trial.readout(tmp_path) == FIRST  # alike


def test_accuracy_counts_right_answers():
    prediction = SimpleNamespace(predictions=np.array([[1.0, 2.0], [3.0, 0.0]]), label_ids=np.array([1, 1]))
    assert accuracy_of(prediction) == {"accuracy": 0.5}


def test_held_out_rows_are_not_trained_on_and_judge_the_read_out(tmp_path, monkeypatch):
    seen = []
    score = Trial._score

    def noted(self, readout, folder):
        seen.append((readout, [list(row) for row in self.judging["input_ids"]], len(self.rows)))
        return score(self, readout, folder)

    monkeypatch.setattr(Trial, "_score", noted)
    write_csv(tmp_path / "train.csv", toy_rows(1000))
    encoder = save_encoder(tmp_path / "encoder", layers=2)
    succeeds(
        "train", "--data", tmp_path / "train.csv", "--model", encoder, "--output", tmp_path / "model", "--epochs", 1,
        "--learning-rate", 3e-3, "--max-length", 16, "--sub-networks", "recurrent,full",
    )  # fmt: skip
    trained = open_model(tmp_path / "model")
    texts = [row["text"] for row in read_csv(tmp_path / "train.csv")]
    of_text = {tuple(trained.tokenizer(text, truncation=True, max_length=16)["input_ids"]) for text in texts}
    (first, judging, rows), (second, same, _) = seen
    assert (first, second, rows) == (FIRST, MEAN, 900)
    assert judging == same
    assert len(judging) == len(halves(100, 0)[0]) == 50
    assert {tuple(ids) for ids in judging} <= of_text
    held_out = split(load_texts(str(tmp_path / "train.csv")), 0)[1]
    chosen_on = [held_out.texts[row] for row in halves(100, 0)[0]]  # never those that are read once
    assert judging == trained.tokenizer(chosen_on, truncation=True, max_length=16)["input_ids"]
    assert trained.model.config.promise["rows"] == 50
    assert trained.model.config.readout in (FIRST, MEAN)
