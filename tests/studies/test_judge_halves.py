"""Ways to average answers, what a tenth that goes on gains, and choices judged by rows that had no part in them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from judge import escalated, halves
from judge.answers import Answers
from judge.averages import AVERAGES
from judge.curves import Curve
from judge.families import View
from sharcs_runtime.scores import softmax

LATER, EARLIER = np.array([[2.0, 0.5, -1.0]], np.float32), np.array([[-0.5, 1.0, 0.0]], np.float32)


def view_of(rows=200, seed=0):
    """Three networks in front, and one that knows more."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    logits = [generator.normal(size=(rows, 3)) + gain * np.eye(3)[labels] for gain in (0.5, 1.0, 1.5, 3.0)]
    costs = np.repeat([[1.0], [4.0], [12.0], [100.0]], rows, axis=1)
    made = np.array(logits, np.float32)
    return View(Answers(made[:3], costs[:3]), Answers(made[3:], costs[3:]), labels)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("probabilities", lambda later, earlier: 0.7 * later + 0.3 * earlier),
        ("evidence", lambda later, earlier: later * earlier ** (3 / 7)),
    ],
)
def test_averages_are_those_of_the_probabilities(name, expected):
    found = expected(softmax(LATER), softmax(EARLIER))
    assert softmax(AVERAGES[name](LATER, EARLIER, 0.3)) == pytest.approx(found / found.sum(), abs=1e-6)
    assert softmax(AVERAGES[name](LATER, EARLIER, 0.0)) == pytest.approx(softmax(LATER))


def test_a_view_says_how_answers_are_averaged():
    view = replace(view_of(), average="evidence")
    assert view.averaged(LATER, EARLIER, 0.5) == pytest.approx(LATER + EARLIER)


def test_an_average_is_rated_by_its_later_answer_and_what_it_changes():
    """Two rows of the first class: the average mends one, and spoils the other."""
    later, earlier = np.array([[0.4, 0.6], [0.6, 0.4]]), np.array([[0.9, 0.1], [0.1, 0.9]])
    logits = np.log(np.array([later, earlier], np.float32))
    view = View(Answers(logits, np.ones((2, 2))), Answers(logits[:1], np.ones((1, 2))), np.zeros(2, int), True)
    averaged = view.averaged(*logits, 0.5)
    assert view.right_of_average(averaged, logits[0]) == pytest.approx([0.4 + 1, 0.6 - 1])
    assert replace(view, by_probability=False).right_of_average(averaged, logits[0]).tolist() == [True, False]
    by_itself = halves.RULES["by probability"](view).right_of_average(averaged, logits[0])
    assert by_itself == pytest.approx([0.65, 0.35])


def test_rules_see_the_rows_that_choose_in_their_own_way():
    seen = {name: rule(view_of()) for name, rule in halves.RULES.items()}
    assert [view.by_probability for view in seen.values()] == [False, True, True, True]
    assert [view.average for view in seen.values()] == ["probabilities"] * 3 + ["evidence"]


def test_the_tenth_that_goes_on_stands_between_chance_and_the_oracle():
    held_out, test = view_of(400, 1), view_of(400, 2)
    found = escalated.of_step(held_out, test, 2)
    sure = softmax(test.answers.logits[2].astype(float)).max(-1)
    goes_on = sure < np.quantile(softmax(held_out.answers.logits[2].astype(float)).max(-1), 0.1)
    assert found["share"] == pytest.approx(goes_on.mean())
    first = test.answers.logits[2].argmax(-1) == test.labels
    possible = []
    for weight in (0.0, 0.3, 0.5):
        mixed = (1 - weight) * softmax(test.reference.logits[0]) + weight * softmax(test.answers.logits[2])
        later = mixed.argmax(-1) == test.labels
        gained = later.astype(float) - first
        possible.append(
            (
                100 * np.where(goes_on, gained, 0).mean(),
                100 * goes_on.mean() * gained.mean(),
                100 * np.sort(gained)[::-1][: goes_on.sum()].sum() / len(gained),
            )
        )
    mine = tuple(found[which] for which in ("ours", "chance", "oracle"))
    assert any(mine == pytest.approx(each) for each in possible)
    assert found["chance"] < found["ours"] < found["oracle"]
    assert found["way"] == pytest.approx((mine[0] - mine[1]) / (mine[2] - mine[1]))


def test_held_out_rows_choose_how_the_tenth_is_averaged():
    """Where the full network says nothing, an average that listens to it least is chosen."""
    held_out, test = view_of(400, 1), view_of(400, 2)
    for view in (held_out, test):
        view.reference.logits[:] = 2 * np.random.default_rng(3).normal(size=view.reference.logits.shape)
    found = escalated.of_step(held_out, test, 2)
    unaveraged = escalated.gains(test, 2, 0.0)
    sure = softmax(test.answers.logits[2].astype(float)).max(-1)
    limit = np.quantile(softmax(held_out.answers.logits[2].astype(float)).max(-1), 0.1)
    assert found["ours"] > 100 * np.where(sure < limit, unaveraged, 0).mean()


def test_a_part_keeps_rows_with_what_belongs_to_them():
    view = replace(view_of(), average="evidence")
    rows = np.array([7, 3, 99])
    part = halves.part(view, rows)
    assert part.average == "evidence"
    assert part.labels.tolist() == view.labels[rows].tolist()
    assert part.right(part.answers.logits[1]).tolist() == view.right(view.answers.logits[1])[rows].tolist()
    assert part.reference.cost.shape == (1, 3)


def test_what_loses_nothing_is_the_cheapest_that_is_as_good_as_the_reference(monkeypatch):
    right = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], np.float32)
    costs, accuracies = np.array([0.1, 0.5, 0.3, 1.0]), np.array([0.5, 0.9, 0.9, 0.9])
    found = Curve(costs, accuracies, np.array([0.1, 0.4, 0.3, 1.0]), right)
    assert halves.without_loss(found) == 2
    monkeypatch.setattr(halves, "BUDGETS", (0.1, 0.2))
    entries = halves.outcome(found)
    assert entries["nothing lost"] == pytest.approx([25.0, 0.3])
    assert entries["0.1"] == pytest.approx([75.0, 0.1])
    assert entries["0.2"] == pytest.approx([50.0, 0.2])  # half and half with the one at 0.3
