"""Accuracy against cost, against plain loops over single inputs and single numbers."""

import functools
import math
from dataclasses import asdict
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.tiny import collate, tiny_model, toy_rows
from sharcs.config import RoutingPolicy
from sharcs.evaluation.accuracy import _random_routings, accuracy_report
from sharcs.evaluation.answers import AllAnswers
from sharcs.evaluation.widths import run_all_widths, way_coefficients
from sharcs_runtime.ways import ways_of

TWO, THREE, CLOSE = (0.25, 1.0), (0.25, 0.5, 1.0), (0.75, 1.0)


@functools.cache
def model_of(widths):
    """Build a model, once for all cases; only its widths, policy and costs matter to a report."""
    return tiny_model(widths=widths)


def model_with(widths, cost_weight=0.0, escalation_threshold=None):
    """Set its policy."""
    model = model_of(widths)
    model.config.policy = {"cost_weight": cost_weight, "escalation_threshold": escalation_threshold}
    return model


# Running every width


@pytest.mark.parametrize("widths", [TWO, THREE])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_every_width_of_every_input_equals_a_plain_loop(kind, widths):
    model = tiny_model(kind, widths=widths, labels=3).train()
    rows = toy_rows(21)
    seen = []
    outputs = run_all_widths(model, rows, collate, batch_size=8, on_batch=seen.append)
    assert not model.training
    assert sum(seen) == 21
    assert outputs.lengths.tolist() == [len(row["input_ids"]) for row in rows]
    assert outputs.predictions.shape == outputs.scores.shape == outputs.router_logits.shape == (21, len(widths))
    for number, row in enumerate(rows):
        for index, width in enumerate(widths):
            with torch.no_grad():
                output = model(input_ids=torch.tensor([row["input_ids"]]), width=width)
            probabilities = output.logits[0].softmax(0).tolist()
            best = max(range(3), key=lambda label: probabilities[label])
            assert outputs.predictions[number, index] == best
            assert outputs.scores[number, index] == pytest.approx(probabilities[best], abs=1e-5)
            np.testing.assert_allclose(outputs.router_logits[number], output.router_logits[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("blend", [0.0, 0.6])
def test_a_policy_is_given_the_answers_that_the_model_gives(blend, steps):
    model, rows = tiny_model(widths=THREE, labels=3, seed=6), toy_rows(40)
    with torch.no_grad():
        head = model.encoder.classifier
        head.bias.sub_(model.eval()(**collate(rows), widths="all").width_logits.mean(dim=(0, 1)))
        head.weight.mul_(9)
        head.bias.mul_(9)
    before = run_all_widths(model, rows, collate, blend=blend)
    threshold = float(np.median(before.scores[:, 0]))
    if steps == 2:
        unsure = before.scores[:, 0] < threshold
        second = before.way_scores["probability"][unsure, ways_of(3).index((0, 1))]
        threshold = {"width-25": threshold, "width-50": float(np.median(second))}
    policy = RoutingPolicy(9.0, threshold, blend)
    model.config.policy = asdict(policy)
    outputs = run_all_widths(model, rows, collate, batch_size=8)
    routed = outputs.route([policy])[0]
    assert 5 < (routed.start != routed.answered_by).sum() < 35
    found = routed.answer.tolist()
    with torch.no_grad():
        given_alone = [model(input_ids=torch.tensor([row["input_ids"]])) for row in rows]
    assert found == [output.logits.argmax().item() for output in given_alone]
    assert routed.answered_by.tolist() == [output.width_index.item() for output in given_alone]
    sure = [output.logits.softmax(-1).max().item() for output in given_alone]
    assert routed.score.tolist() == pytest.approx(sure, abs=1e-5)
    assert len(set(routed.answered_by.tolist())) == steps + 1
    if blend and steps == 1:
        assert found != outputs.predictions[np.arange(40), routed.answered_by].tolist()
        other = run_all_widths(model, rows, collate, blend=0.0)
        assert all(
            np.array_equal(other.way_predictions[:, column], other.predictions[:, way[-1]])
            for column, way in enumerate(ways_of(3))
        )


def test_only_what_the_tokenizer_makes_is_read():
    def strict(batch):
        assert all(set(row) == {"input_ids", "attention_mask"} for row in batch)
        return collate(batch)

    model, rows = model_with(TWO), toy_rows(12)
    extra = [row | {"length": 99, "sample_id": 5, "text": "words"} for row in rows]
    found = run_all_widths(model, datasets.Dataset.from_list(extra), strict, batch_size=5)
    expected = run_all_widths(model, rows, strict, batch_size=5)
    assert np.array_equal(found.scores, expected.scores)
    assert np.array_equal(found.lengths, expected.lengths)


def test_batch_size_changes_nothing():
    model, rows = model_with(THREE), toy_rows(17)
    one, all_at_once = (run_all_widths(model, rows, collate, batch_size=size) for size in (1, 64))
    assert np.array_equal(one.predictions, all_at_once.predictions)
    np.testing.assert_allclose(one.scores, all_at_once.scores, atol=1e-5, rtol=0)


# The report


@functools.cache
def costs_of(model, length):
    """Cost at every width, and last that of the plain full network, of one input."""
    return [c0 + c1 * length + c2 * length**2 for c0, c1, c2 in model.cost_coefficients().tolist()]


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def route(model, logits, length, weight):
    """Apply the policy to one input: the argmax of score − λ · relative cost, and at λ = 0 of the logits."""
    *costs, full = costs_of(model, length)
    gains = logits if weight == 0 else [sigmoid(x) - weight * c / full for x, c in zip(logits, costs, strict=True)]
    return max(range(len(gains)), key=lambda index: (gains[index], -index))


def outputs_of(widths, count, *, classes=3, seed=0, scale=2.0, accuracy=(0.5, 0.8)):
    """Make up what a network might say, and the truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes, (count,), generator=generator)
    predictions = torch.randint(0, classes, (count, len(widths)), generator=generator)
    right = torch.rand(count, len(widths), generator=generator) < torch.linspace(*accuracy, len(widths))
    predictions = torch.where(right, truth.unsqueeze(1), predictions)
    logits = torch.randn(count, len(widths), generator=generator) * scale
    lengths = torch.randint(3, 40, (count,), generator=generator)
    scores = torch.rand(count, len(widths))
    return record(widths, predictions.numpy(), scores.numpy(), logits.numpy(), lengths.numpy()), truth.numpy()


def record(widths, predictions, scores, logits, lengths):
    """Record what widths say alone, without blending."""
    model = model_of(widths)
    ways = ways_of(len(widths))
    last = [way[-1] for way in ways]
    return AllAnswers(
        names=tuple(model.config.names),
        way_predictions=predictions[:, last],
        way_scores={"probability": scores[:, last]},
        router_logits=logits,
        lengths=lengths,
        cost_coefficients=way_coefficients(model, ways),
        max_length=int(lengths.max()),
    )


def slow_point(model, outputs, truth, chosen):
    """Accuracy, cost and cost ratio of one choice of widths, input by input."""
    right = spent = full = 0.0
    for number, index in enumerate(chosen):
        costs = costs_of(model, int(outputs.lengths[number]))
        right += int(outputs.predictions[number, index]) == int(truth[number])
        spent += costs[index]
        full += costs[-1]
    return right / len(chosen), spent / len(chosen), spent / full


@pytest.mark.parametrize("widths", [TWO, THREE])
@pytest.mark.parametrize("cost_weight", [0.0, 0.4, -0.4])
def test_report_equals_a_slow_recomputation(widths, cost_weight):
    model = model_with(widths, cost_weight)
    outputs, truth = outputs_of(widths, 60)
    report = accuracy_report(model, outputs, truth).to_dict()
    inputs = range(60)
    logits, lengths = outputs.router_logits.tolist(), outputs.lengths.tolist()
    right = [[int(p) == int(t) for p in row] for row, t in zip(outputs.predictions, truth, strict=True)]
    assert (report["samples"], report["metric"]) == (60, "accuracy")

    chosen = [route(model, logits[n], lengths[n], cost_weight) for n in inputs]
    assert len(set(chosen)) == len(widths)
    accuracy, flops, ratio = slow_point(model, outputs, truth, chosen)
    assert report["routed"] == pytest.approx({"accuracy": accuracy, "flops": flops, "flops_ratio": ratio})

    assert report["full"]["accuracy"] == pytest.approx(sum(row[-1] for row in right) / 60)
    assert report["full"]["flops"] == pytest.approx(sum(costs_of(model, length)[-1] for length in lengths) / 60)

    assert [entry["width"] for entry in report["widths"]] == list(widths)
    for index, entry in enumerate(report["widths"]):
        accuracy, _, ratio = slow_point(model, outputs, truth, [index] * 60)
        routed = [right[n][index] for n in inputs if chosen[n] == index]
        assert entry["accuracy"] == pytest.approx(accuracy)
        assert entry["flops_ratio"] == pytest.approx(ratio)
        assert entry["share"] == pytest.approx(len(routed) / 60)
        assert entry["accuracy_routed"] == pytest.approx(sum(routed) / len(routed))
    assert sum(entry["share"] for entry in report["widths"]) == pytest.approx(1)

    best = [row.index(True) if True in row else 0 for row in right]
    accuracy, _, ratio = slow_point(model, outputs, truth, best)
    assert report["oracle"] == pytest.approx({"accuracy": accuracy, "flops_ratio": ratio})

    for entry in report["curve"]:
        chosen = [route(model, logits[n], lengths[n], entry["cost_weight"]) for n in inputs]
        accuracy, _, ratio = slow_point(model, outputs, truth, chosen)
        # At a weight where an input changes width, rounding decides for that one.
        assert entry["accuracy"] == pytest.approx(accuracy, abs=1.01 / 60)
        assert entry["flops_ratio"] == pytest.approx(ratio, abs=1.01 / 60)


@pytest.mark.parametrize("widths", [TWO, THREE])
def test_random_router_sends_the_same_shares_to_inputs_at_random(widths):
    model = model_with(widths)
    # A router that knows: without shuffling its accuracy would be far above that of chance. And uneven shares.
    outputs, truth = outputs_of(widths, 400, accuracy=(0.1, 0.9))
    right = outputs.predictions == truth[:, None]
    outputs.router_logits[:] = right - 0.01 * np.arange(len(widths))
    report = accuracy_report(model, outputs, truth).to_dict()
    shares = [entry["share"] for entry in report["widths"]]
    # Exactly: an input takes width i with probability share_i.
    expected = sum(share * float(right[:, index].mean()) for index, share in enumerate(shares))
    assert report["routed"]["accuracy"] > expected + 0.1
    # One draw deviates by at most about sqrt(1/4/400), and the mean of 20 by a √20th of that.
    assert abs(report["random"]["accuracy"] - expected) < 5 * math.sqrt(0.25 / 400 / 20)
    assert report["random"]["accuracy"] != expected


def test_random_router_repeats_with_its_seed():
    model = model_with(TWO)
    outputs, truth = outputs_of(TWO, 100)
    drawn = [accuracy_report(model, outputs, truth, seed=seed).random for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_width_that_nothing_is_routed_to_has_no_accuracy_there(index):
    outputs, truth = outputs_of(THREE, 30)
    outputs.router_logits[:, index] = -50
    report = accuracy_report(model_with(THREE), outputs, truth).to_dict()
    assert report["widths"][index]["share"] == 0
    assert report["widths"][index]["accuracy_routed"] is None
    others = [entry for number, entry in enumerate(report["widths"]) if number != index]
    assert all(entry["share"] > 0 and entry["accuracy_routed"] is not None for entry in others)


def test_oracle_takes_the_cheapest_right_width_and_the_cheapest_where_none_is_right():
    predictions = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]])
    nothing = np.zeros((5, 3), np.float32)
    outputs = record(THREE, predictions, nothing, nothing, np.array([10] * 5))
    report = accuracy_report(model_with(THREE), outputs, np.zeros(5, np.int64)).to_dict()
    costs = costs_of(model_with(THREE), 10)
    assert report["oracle"]["accuracy"] == pytest.approx(4 / 5)
    assert report["oracle"]["flops_ratio"] == pytest.approx((3 * costs[0] + costs[1] + costs[2]) / 5 / costs[-1])


# The curve


@st.composite
def routed_inputs(draw):
    """Draw router logits, saturated ones and ties too, and lengths."""
    widths = draw(st.sampled_from([TWO, THREE, CLOSE]))
    logit = st.one_of(st.floats(-4, 4, width=32), st.sampled_from([-100.0, -20.0, 0.0, 12.0, 17.5, 100.0]))
    row = st.tuples(st.lists(logit, min_size=len(widths), max_size=len(widths)), st.integers(1, 64))
    return widths, draw(st.lists(row, min_size=1, max_size=12))


@settings(max_examples=60, deadline=None)
@given(routed_inputs())
@example((CLOSE, [([12.0, 17.5], 5)]))
@example((THREE, [([100.0, 100.0, 100.0], 3), ([-100.0, -100.0, -100.0], 60)]))
def test_curve_goes_from_all_narrow_to_all_full_through_the_papers_policy(case):
    widths, rows = case
    model = model_with(widths)
    count = len(rows)
    outputs, truth = outputs_of(widths, count)
    outputs.router_logits[:] = [logits for logits, _ in rows]
    outputs.lengths[:] = [length for _, length in rows]
    report = accuracy_report(model, outputs, truth).to_dict()
    curve = sorted(report["curve"], key=lambda entry: -entry["cost_weight"])

    ratios = [entry["flops_ratio"] for entry in curve]
    assert ratios == sorted(ratios), "cost falls with the cost weight"
    for entry, index in ((curve[0], 0), (curve[-1], len(widths) - 1)):
        accuracy, _, ratio = slow_point(model, outputs, truth, [index] * count)
        assert entry["flops_ratio"] == pytest.approx(ratio)
        assert entry["accuracy"] == pytest.approx(accuracy)
    (paper,) = [entry for entry in curve if entry["cost_weight"] == 0]
    assert paper["flops_ratio"] == report["routed"]["flops_ratio"]
    assert paper["accuracy"] == report["routed"]["accuracy"]


@pytest.mark.parametrize("cost_weight", [0.4, -0.4])
def test_curve_does_not_hang_on_the_configured_policy(cost_weight):
    outputs, truth = outputs_of(THREE, 50)
    plain = accuracy_report(model_with(THREE), outputs, truth).to_dict()
    other = accuracy_report(model_with(THREE, cost_weight), outputs, truth).to_dict()
    assert plain["curve"] == other["curve"]
    assert plain["routed"] != other["routed"]


def test_curve_moves_the_inputs_in_even_steps():
    outputs, truth = outputs_of(TWO, 400, scale=0.01)
    model = model_with(TWO)
    outputs.lengths[:] = 20  # with equal costs the cost ratio is linear in the share
    ratios = [entry["flops_ratio"] for entry in accuracy_report(model, outputs, truth).to_dict()["curve"]]
    narrow, full = min(ratios), max(ratios)
    steps = [abs(low - high) / (full - narrow) for low, high in pairwise(ratios)]
    assert len(ratios) >= 40
    assert max(steps) < 2 / 40


def test_report_is_plain_json_numbers():
    outputs, truth = outputs_of(THREE, 20)
    report = accuracy_report(model_with(THREE), outputs, truth).to_dict()

    def leaves(value):
        if isinstance(value, dict):
            value = list(value.values())
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]

    assert {type(leaf) for leaf in leaves(report)} <= {int, float, str, type(None)}


# Escalation


def escalate(model, outputs, number, weight, threshold):
    """Apply both decisions of the policy to one input: the width that it runs first, and the one that answers."""
    first = route(model, outputs.router_logits[number].tolist(), int(outputs.lengths[number]), weight)
    full = outputs.predictions.shape[1] - 1
    return first, full if first < full and float(outputs.scores[number, first]) < threshold else first


def slow_escalation(model, outputs, truth, weight, threshold):
    """Accuracy and cost of escalation, input by input."""
    right = spent = full = 0.0
    shares = [0] * outputs.predictions.shape[1]
    c0, c1, c2 = model.continuation_coefficients().tolist()
    for number in range(len(truth)):
        first, last = escalate(model, outputs, number, weight, threshold)
        length = int(outputs.lengths[number])
        costs = costs_of(model, length)
        right += int(outputs.predictions[number, last]) == int(truth[number])
        spent += costs[first] + (c0 + c1 * length + c2 * length**2 if last != first else 0)
        full += costs[-1]
        shares[last] += 1 / len(truth)
    return right / len(truth), spent / len(truth), spent / full, shares


@pytest.mark.parametrize("widths", [TWO, THREE])
@pytest.mark.parametrize(("weight", "threshold"), [(0.0, 0.5), (0.4, 0.3), (2.0, 0.9), (2.0, 0.0)])
def test_report_on_escalation_equals_a_slow_recomputation(widths, weight, threshold):
    model = model_with(widths, weight, threshold)
    outputs, truth = outputs_of(widths, 80)
    report = accuracy_report(model, outputs, truth).to_dict()
    accuracy, flops, ratio, shares = slow_escalation(model, outputs, truth, weight, threshold)
    assert report["routed"] == pytest.approx({"accuracy": accuracy, "flops": flops, "flops_ratio": ratio})
    assert [entry["share"] for entry in report["widths"]] == pytest.approx(shares)
    assert [entry["cost_weight"] for entry in report["curve"]] == [weight] * len(report["curve"])
    thresholds = [entry["escalation_threshold"] for entry in report["curve"]]
    assert thresholds == sorted(set(thresholds))
    assert {0.0, threshold, 1.0} <= set(thresholds)
    for entry in report["curve"]:
        accuracy, _, ratio, _ = slow_escalation(model, outputs, truth, weight, entry["escalation_threshold"])
        # At a threshold that is some input's confidence, rounding decides for that one.
        assert entry["accuracy"] == pytest.approx(accuracy, abs=1.01 / 80)
        assert entry["flops_ratio"] == pytest.approx(ratio, abs=1.5 / 80)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([TWO, THREE]), st.floats(0, 1), st.sampled_from([-2.0, 0.0, 2.0]), st.integers(1, 60))
def test_random_routing_beside_escalation_costs_as_much(widths, threshold, weight, count):
    model = model_with(widths, weight, threshold)
    outputs, _ = outputs_of(widths, count)
    outputs.lengths[:] = 10  # else a draw may send the long inputs to full width, and cost more by chance
    costs = outputs.costs
    routed = outputs.route([model.config.routing_policy])[0]
    spent = float(routed.cost.sum())
    for drawn in _random_routings(costs, routed, 0):
        found = float(costs[np.arange(count), drawn].sum())
        everything_full = bool((drawn == len(widths) - 1).all())
        dearest = float(costs.max())
        if np.array_equal(routed.start, routed.answered_by):
            assert sorted(drawn.tolist()) == sorted(routed.answered_by.tolist())
        else:
            assert everything_full or found >= spent - 2 * dearest
            assert found <= spent + 2 * dearest


def test_random_routing_beside_escalation_is_no_better_than_its_share():
    """At the same cost, a random router's accuracy lies on the line between the two widths."""
    model = model_with(TWO, 2.0, 0.5)
    outputs, truth = outputs_of(TWO, 3000, accuracy=(0.3, 0.9))
    outputs.lengths[:] = 10
    report = accuracy_report(model, outputs, truth).to_dict()
    narrow, full = report["widths"]
    share = (report["routed"]["flops_ratio"] - narrow["flops_ratio"]) / (full["flops_ratio"] - narrow["flops_ratio"])
    expected = narrow["accuracy"] + share * (full["accuracy"] - narrow["accuracy"])
    assert report["random"]["accuracy"] == pytest.approx(expected, abs=0.01)
