"""Ours as it is timed: an export's answers as classes, what they cost, and policies that held-out rows choose."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from records.make import HERE, ROWS
from sharcs.export.bundle import export_model
from sharcs.inference.folder import open_trained
from sharcs_runtime import OnnxRunner
from sharcs_runtime.policy import RoutingPolicy

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from judge import routed
from judge.data import tokenised


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routed") / "export"
    trained = open_trained(HERE / "plus")
    export_model(trained.model, trained.tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def rows(export):
    with ROWS.open(newline="", encoding="utf-8") as file:
        given = list(csv.DictReader(file))[:60]
    names = OnnxRunner(export).labels
    labels = np.array([names.index(row["label"]) for row in given])
    return tokenised([row["text"] for row in given], None, labels, 32)


def test_an_export_answers_with_classes_and_knows_what_they_cost(export, rows):
    runner = OnnxRunner(export)
    ours = routed.Routed(runner)
    answers = list(runner.answers(routed.texts_of(rows), top_k=1))
    found = ours(rows)
    assert found.sum(-1).tolist() == [1.0] * len(rows)
    assert found.argmax(-1).tolist() == [answer.classes[0] for answer in answers]
    spent, full = sum(answer.flops for answer in answers), sum(answer.flops / answer.cost for answer in answers)
    assert ours.cost(rows) == pytest.approx(spent / full)
    assert 0.5 < ours.cost(rows) < 1


def test_held_out_rows_choose_a_policy_for_a_copy(export, rows):
    runner = OnnxRunner(export)
    before = runner.policy
    ((name, (ours, record)),) = routed.by_policy(runner, rows, ["nothing lost"]).items()
    assert name == "nothing lost"
    assert runner.policy == before
    assert ours.runner.policy == RoutingPolicy.from_dict(record["policy"])
    full = OnnxRunner(export, width=1.0)
    right = [np.mean([a.class_index == label for a, label in zip(each, rows.labels, strict=True)])
             for each in (full.predict(rows.texts), ours.runner.predict(rows.texts))]  # fmt: skip
    assert record["held_out_lost"] == pytest.approx(100 * (right[0] - right[1]))
    assert record["held_out_cost"] == pytest.approx(ours.cost(rows))


def test_pairs_are_handed_over_as_pairs():
    rows = tokenised(["a film", "dull"], ["fine", "so so"], np.array([0, 1]), 32)
    assert routed.texts_of(rows) == [("a film", "fine"), ("dull", "so so")]
