"""The numbers behind a report, against plain loops over single inputs."""

import math
import random
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny import collate, tiny_model, toy_rows
from sharcs.config import RoutingPolicy
from sharcs.evaluation.answers import AllAnswers, Routed
from sharcs.evaluation.curve import curve_weights
from sharcs.evaluation.reliability import reliability
from sharcs.evaluation.widths import run_all_widths
from sharcs.report.charts import percentage
from sharcs.report.findings import (
    agreement,
    example_rows,
    harm_by,
    overthinking_rows,
    wrong_label_rows,
)
from sharcs_runtime.ways import ways_of

CLASSES = 4


def made_up(count=300, widths=2, seed=0, labelled=True):
    """Make up answers of some widths; a class never labels anything, and a tenth of the labels is wrong."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, CLASSES - 1, count)
    labels = np.where(draw.random(count) < 0.1, (truth + 1) % (CLASSES - 1), truth)
    chances = draw.dirichlet(np.full(CLASSES, 0.4), (count, widths))
    for row in range(count):
        for width in range(widths):
            if draw.random() < 0.5 + 0.2 * width:
                best = chances[row, width].argmax()
                swap = [best, truth[row]]
                chances[row, width, swap] = chances[row, width, swap[::-1]]
    chances = chances.astype(np.float32)
    last = draw.integers(0, widths, count)
    first = np.where(draw.random(count) < 0.3, 0, last)
    row = np.arange(count)
    ways = ways_of(widths)
    last_of_way = [way[-1] for way in ways]
    answers = AllAnswers(
        names=tuple(f"width-{width}" for width in range(widths)),
        way_predictions=chances.argmax(-1)[:, last_of_way],
        way_scores={"probability": chances.max(-1)[:, last_of_way]},
        router_logits=np.zeros((count, widths), np.float32),
        lengths=np.full(count, 5),
        cost_coefficients=np.ones((len(ways) + 1, 3)),
        max_length=5,
        labels=labels if labelled else None,
        way_label_scores=chances[row[:, None], last_of_way, labels[:, None]] if labelled else None,
    )
    taken = [ways.index((a,) if a == b else (a, b)) for a, b in zip(first, last, strict=True)]
    return Routed(answers, np.array(taken)), chances.astype(float)


# Reliability


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_reliability_equals_a_plain_loop(pairs):
    found = asdict(reliability(np.array([score for score, _ in pairs]), np.array([right for _, right in pairs])))
    error = 0.0
    for number, entry in enumerate(found["bins"]):
        low, high = number / 10, (number + 1) / 10
        here = [pair for pair in pairs if low < pair[0] <= high or (number == 0 and pair[0] == 0)]
        assert (entry["low"], entry["high"], entry["rows"]) == (low, high, len(here))
        if not here:
            assert entry["score"] is entry["accuracy"] is None
            continue
        score = sum(score for score, _ in here) / len(here)
        accuracy = sum(right for _, right in here) / len(here)
        assert entry["score"] == pytest.approx(score)
        assert entry["accuracy"] == pytest.approx(accuracy)
        error += len(here) / len(pairs) * abs(accuracy - score)
    assert sum(entry["rows"] for entry in found["bins"]) == len(pairs)
    assert found["ece"] == pytest.approx(error)


# What a person should look at


@pytest.mark.parametrize("widths", [1, 2, 3])
def test_overthinking_equals_a_plain_loop(widths):
    routed, chances = made_up(widths=widths)
    answers = routed.answers
    expected = []
    for row, label in enumerate(answers.labels):
        best = [max(range(CLASSES), key=lambda name: each[name]) for each in chances[row]]
        sure = [chances[row][width][label] for width in range(widths - 1) if best[width] == label]
        if best[-1] != label and sure:
            expected.append((-max(sure), row))
    assert overthinking_rows(answers).tolist() == [row for _, row in sorted(expected)]
    assert bool(expected) == (widths > 1)


@pytest.mark.parametrize("widths", [1, 2, 3])
def test_likely_wrong_labels_equal_a_plain_loop(widths):
    routed, chances = made_up(1500, widths)
    answers = routed.answers
    limits = {}
    for name in range(CLASSES):
        for width in range(widths):
            own = [chances[row][width][name] for row, label in enumerate(answers.labels) if label == name]
            limits[name, width] = sum(own) / len(own) if own else math.inf
    expected = []
    for row, label in enumerate(answers.labels):
        best = {max(range(CLASSES), key=lambda name: each[name]) for each in chances[row]}
        if len(best) > 1 or label in best:
            continue
        (name,) = best
        if all(chances[row][width][name] >= limits[name, width] for width in range(widths)):
            margin = sum(each[name] - each[label] for each in chances[row]) / widths
            expected.append((-margin, row))
    assert wrong_label_rows(answers).tolist() == [row for _, row in sorted(expected)]
    assert len(expected) > 5
    if widths < 3:  # the class that labels nothing is every width's answer to some input, and counts for nothing
        assert any((answers.predictions[row] == CLASSES - 1).all() for row in range(1500))


@pytest.mark.parametrize("labelled", [True, False])
def test_harm_equals_a_plain_loop(labelled):
    routing, _ = made_up(labelled=labelled)
    answers = routing.answers
    generator = random.Random(0)
    values = [generator.choice(["a", "b", "", "b\0", "ü"]) for _ in range(len(answers))]
    found = [asdict(entry) for entry in harm_by(routing, values)]
    assert {entry["value"] for entry in found} == set(values)
    for entry in found:
        here = [row for row, value in enumerate(values) if value == entry["value"]]
        routed = [routing.answer[row] for row in here]
        full = [answers.predictions[row, -1] for row in here]
        assert entry["rows"] == len(here)
        assert entry["disagreement"] == pytest.approx(
            sum(a != b for a, b in zip(routed, full, strict=True)) / len(here)
        )
        if not labelled:
            assert entry["accuracy"] is entry["full_accuracy"] is entry["accuracy_drop"] is None
            continue
        labels = [answers.labels[row] for row in here]
        accuracy = sum(a == b for a, b in zip(routed, labels, strict=True)) / len(here)
        full_accuracy = sum(a == b for a, b in zip(full, labels, strict=True)) / len(here)
        assert (entry["accuracy"], entry["full_accuracy"]) == (pytest.approx(accuracy), pytest.approx(full_accuracy))
        assert entry["accuracy_drop"] == pytest.approx(full_accuracy - accuracy)
    key = "accuracy_drop" if labelled else "disagreement"
    assert [entry[key] for entry in found] == sorted((entry[key] for entry in found), reverse=True)


def test_harm_takes_a_value_of_its_own_for_each_of_many_inputs():
    few, _ = made_up(3)
    rows = np.arange(50_000) % 3
    many = Routed(few.answers.take(rows), few.start[rows])
    # One pass over all inputs for each value would take minutes.
    assert len(harm_by(many, [str(row) for row in range(50_000)])) == 50_000


def test_agreement_equals_a_plain_loop():
    routing, _ = made_up()
    answers = routing.answers
    found = asdict(agreement(routing))
    parts = found["right"]
    count = dict.fromkeys(parts, 0)
    for label, routed, full in zip(answers.labels, routing.answer, answers.predictions[:, -1], strict=True):
        if routed == label == full:
            count["both"] += 1
        elif routed == label:
            count["routed_only"] += 1
        elif full == label:
            count["full_only"] += 1
        else:
            count["neither_same" if routed == full else "neither_different"] += 1
    assert all(count.values())
    assert parts == pytest.approx({name: number / len(answers) for name, number in count.items()})
    assert found["same"] == pytest.approx(parts["both"] + parts["neither_same"])
    assert found["different"] == pytest.approx(1 - found["same"])
    assert asdict(agreement(made_up(labelled=False)[0])) == found | {"right": None}


def test_examples_go_from_the_least_sure_to_the_surest():
    routing, _ = made_up()
    for width in (0, 1):
        here = [row for row in range(len(routing.answers)) if routing.answered_by[row] == width]
        by_score = sorted(here, key=lambda row: routing.score[row])
        chosen = example_rows(routing, width, 6)
        assert len(set(chosen)) == 6
        assert (chosen[0], chosen[-1]) == (by_score[0], by_score[-1])
        places = [by_score.index(row) for row in chosen]
        gaps = [high - low for low, high in pairwise(places)]
        assert min(gaps) > 0
        assert max(gaps) - min(gaps) <= 1
        assert sorted(example_rows(routing, width, 1000)) == here
    assert example_rows(routing, 7, 6) == []


# The pass over the inputs


@pytest.mark.parametrize("kind", ["router", "escalation", "blended"])
def test_answers_and_scores_are_the_model_s_own(kind):
    model, rows = tiny_model(widths=(0.25, 0.5, 1.0), labels=3, seed=6), toy_rows(40)
    with torch.no_grad():
        head = model.encoder.classifier
        head.bias.sub_(model.eval()(**collate(rows), widths="all").width_logits.mean(dim=(0, 1)))
        head.weight.mul_(9)
        head.bias.mul_(9)
    outputs = run_all_widths(model, rows, collate)
    # At the weights themselves, some input is undecided.
    weights = [(low + high) / 2 for low, high in pairwise(curve_weights(outputs))]
    by_weight = {weight: len(np.unique(outputs.route([RoutingPolicy(weight)]).answered_by)) for weight in weights}
    policy = RoutingPolicy(max(by_weight, key=by_weight.get))
    if kind != "router":
        policy = RoutingPolicy(
            9.0, sorted(outputs.scores[:, 0].tolist())[19] + 1e-3, 0.4 if kind == "blended" else 0.0
        )
    model.config.policy = asdict(policy)
    labels = torch.tensor([row["labels"] for row in rows])
    seen = []
    answers = run_all_widths(model, rows, collate, on_batch=seen.append, labels=labels)
    routed = answers.route([policy])[0]
    assert sum(seen) == 40
    assert len(set(routed.answered_by.tolist())) > 1
    assert (routed.start != routed.answered_by).any() == policy.escalates
    for number, row in enumerate(rows):
        batch = {"input_ids": torch.tensor([row["input_ids"]])}
        with torch.no_grad():
            output = model(**batch)
            probabilities = output.logits[0].double().softmax(0).tolist()
            by_width = [
                model(**batch, width=width).logits[0].double().softmax(0).tolist() for width in (0.25, 0.5, 1.0)
            ]
        best = max(range(3), key=probabilities.__getitem__)
        assert (routed.answer[number], routed.answered_by[number]) == (best, output.width_index.item())
        assert routed.score[number] == pytest.approx(probabilities[best], abs=1e-5)
        expected = [each[row["labels"]] for each in by_width]
        assert answers.label_scores[number].tolist() == pytest.approx(expected, abs=1e-5)


# How numbers are shown


def test_percentages():
    assert [percentage(value) for value in (0.951, 0, -0.0, -0.0001, -0.0123, None)] == [
        *("95.1%", "0.0%", "0.0%", "0.0%"),
        "\u22121.2%",
        "\u2013",
    ]
