"""F1, confusions, calibration error and abstention, counted by hand."""

import json

import numpy as np
import pytest

from helpers.cli import error_message, read_csv, sharcs, succeeds
from records.make import HERE, ROWS
from sharcs.evaluation.quality import quality_of
from sharcs.evaluation.reliability import abstaining, coverage_curve

NAMES = {index: f"class {index}" for index in range(6)}


class Made:
    """What quality_of reads of answers."""

    def __init__(self, labels, label_sets=None):
        self.labels, self.label_sets = np.array(labels), label_sets


def counted(truth, said, index):
    """Count precision, recall and F1 of a class, by hand; truth and answers are sets of classes."""
    both = sum(index in t and index in s for t, s in zip(truth, said, strict=True))
    true, named = sum(index in t for t in truth), sum(index in s for s in said)
    precision, recall = (both / of if of else 0.0 for of in (named, true))
    f1 = 2 * both / (true + named) if true + named else 0.0
    return [true, pytest.approx(precision), pytest.approx(recall), pytest.approx(f1)]


def numbers_of(each):
    return [each.rows, each.precision, each.recall, each.f1]


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_classes_and_confusions_are_counted(classes):
    draw = np.random.default_rng(classes)
    truth = draw.integers(0, classes, 80)
    said = np.where(draw.random(80) < 0.6, truth, draw.integers(0, classes, 80))
    truth[truth == 3], said[said == 3] = 0, 1  # nothing has class 3
    found = quality_of(Made(truth), said, draw.random(80).astype(np.float32), NAMES)
    present = sorted({*truth.tolist(), *said.tolist()})
    assert [each.name for each in found.classes] == [NAMES[index] for index in present]
    sets = [[{value} for value in of.tolist()] for of in (truth, said)]
    expected = [counted(*sets, index) for index in present]
    assert [numbers_of(each) for each in found.classes] == expected
    assert found.macro_f1 == pytest.approx(sum(each.f1 for each in found.classes) / len(present))
    pairs = list(zip(truth.tolist(), said.tolist(), strict=True))
    assert found.confusion == [[pairs.count((row, column)) for column in present] for row in present]


def test_several_labels_are_counted_each_by_itself():
    sets = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    truth, said = [0, 1, 2, 3, 2], np.array([0, 2, 2, 1, 1])
    found = quality_of(Made(truth, sets), said, np.full(5, 0.9, np.float32), NAMES)
    members = [[set(np.flatnonzero(sets[index]).tolist()) for index in of] for of in (truth, said)]
    assert [numbers_of(each) for each in found.classes] == [counted(*members, index) for index in range(3)]
    assert found.confusion is None
    assert found.ece == pytest.approx(0.5)  # two of five whole sets are right


def test_coverage_falls_and_abstaining_leaves_out_what_is_below():
    draw = np.random.default_rng(0)
    scores = draw.random(500).astype(np.float32)
    right = draw.random(500) < scores
    curve = coverage_curve(scores, right)
    assert curve[0].coverage == 1.0
    assert len(curve) == 41
    for at in [*curve, abstaining(scores, right, 0.8)]:
        kept = [
            ok for score, ok in zip(scores.tolist(), right.tolist(), strict=True) if score >= np.float32(at.below)
        ]
        assert at.coverage == len(kept) / 500
        assert at.accuracy == pytest.approx(sum(kept) / len(kept))
    assert abstaining(scores, right, 2.0).accuracy is None


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """What the commands say of the recorded rows, with a limit and without one."""
    folder = tmp_path_factory.mktemp("answered")
    options = ("--data", ROWS, "--abstain-below", 0.8)
    run = succeeds("evaluate", HERE / "plus", *options, "--json", folder / "e.json")
    succeeds("predict", HERE / "plus", "--data", ROWS, "--output", folder / "all.csv")
    some = succeeds("predict", HERE / "plus", *options, "--output", folder / "some.csv")
    return folder, run.out, some.err


def test_evaluate_says_what_the_rows_of_predict_come_to(answered):
    folder, printed, _ = answered
    found, rows = json.loads((folder / "e.json").read_text()), read_csv(folder / "all.csv")
    truth, said = ([{row[name]} for row in rows] for name in ("label", "prediction"))
    routed = found["quality"]["routed"]
    for each in routed["classes"]:
        assert [each[name] for name in ("rows", "precision", "recall", "f1")] == counted(truth, said, each["name"])
    assert sum(map(sum, routed["confusion"])) == len(rows)
    kept = [row["label"] == row["prediction"] for row in rows if float(row["score"]) >= 0.8]
    assert found["abstaining"] == {
        "below": 0.8,
        "coverage": pytest.approx(len(kept) / len(rows)),
        "accuracy": pytest.approx(sum(kept) / len(kept)),
    }
    assert f"macro F1 {100 * routed['macro_f1']:.1f}%" in printed
    assert f"expected calibration error {100 * routed['ece']:.1f}%" in printed
    assert f"{100 * len(kept) / len(rows):.1f}% are answered" in printed


def test_predict_leaves_answers_empty_that_are_unsure(answered):
    folder, _, said = answered
    before, after = read_csv(folder / "all.csv"), read_csv(folder / "some.csv")
    unsure = sum(float(row["score"]) < 0.8 for row in before)
    assert 0 < unsure < len(before)
    assert f"400 rows are in {folder / 'some.csv'}; {unsure} have no answer" in said
    assert after == [row | ({"prediction": ""} if float(row["score"]) < 0.8 else {}) for row in before]


def test_a_directory_of_answers_has_the_same_empty_ones(answered, tmp_path):
    folder, _, said = answered
    options = ("--data", ROWS, "--output", f"{tmp_path / 'many'}/", "--workers", 1)
    run = succeeds("predict", HERE / "plus", *options, "--abstain-below", 0.8)
    (file,) = (tmp_path / "many").glob("*.csv")
    assert [row["prediction"] for row in read_csv(file)] == [r["prediction"] for r in read_csv(folder / "some.csv")]
    assert run.err.endswith("; " + said.split("; ")[-1].replace(" have", " rows have"))
    assert "was begun with another abstain below" in error_message(sharcs("predict", HERE / "plus", *options))


@pytest.mark.parametrize("limit", ["0", "1", "-1", "nan"])
def test_a_limit_that_is_none_is_refused(limit, tmp_path):
    for command in (("evaluate",), ("predict", "--output", tmp_path / "out.csv")):
        run = sharcs(command[0], HERE / "plus", "--data", ROWS, *command[1:], "--abstain-below", limit)
        assert error_message(run) == f"--abstain-below {limit}: has to be between 0 and 1, like 0.8"
