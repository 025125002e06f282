"""What a calibration says and stores, and budgets without data at hand."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from helpers.encoders import load_routed
from helpers.population import CLASSES, make_population
from helpers.tiny import collate, tiny_model, toy_rows
from sharcs import InputError, RoutingPolicy, SharcsConfig, SharcsForSequenceClassification
from sharcs.calibration.calibrate import calibrate, losses_by
from sharcs.calibration.choice import Constraint, classes_bounded
from sharcs.calibration.frontier import build_frontier
from sharcs.calibration.latency import measure_times
from sharcs.calibration.policies import all_policies
from sharcs.config import policy_for_budget, policy_of
from sharcs.evaluation.widths import run_all_widths
from sharcs_runtime.ways import sum_along_ways, ways_of


@pytest.fixture(scope="module")
def answers():
    return make_population(3000, seed=3)


@pytest.fixture(scope="module")
def found(answers):
    return calibrate(answers, Constraint("max_disagreement", 0.05), CLASSES)


def test_what_is_said_of_a_policy_is_what_the_tested_rows_say(answers, found):
    rows = answers.take(found.tested)
    routed = rows.route([found.policy])
    said = np.where(routed.answered_by[0] == 1, rows.predictions[:, 1], rows.predictions[:, 0])
    assert found.met
    assert (found.rows, found.rows_tested) == (3000, 2400)
    assert found.disagreement == found.observed == pytest.approx((said != rows.predictions[:, 1]).mean())
    assert found.observed < found.bound <= 0.05
    assert found.accuracy == pytest.approx((said == rows.labels).mean())
    assert found.full_accuracy == pytest.approx((rows.predictions[:, 1] == rows.labels).mean())
    assert found.cost_ratio == pytest.approx(routed.cost.sum() / rows.full_costs.sum())
    assert sum(found.shares) == pytest.approx(1)
    assert found.shares[0] == (routed.answered_by == 0).mean()
    assert found.cost_ratio < 0.8


def test_a_limit_that_nothing_keeps_leaves_the_full_network(answers):
    found = calibrate(answers, Constraint("max_disagreement", 0.0005), CLASSES)
    assert not found.met
    assert found.bound is None
    assert found.policy == RoutingPolicy(start="full")
    assert (found.observed, found.shares) == (0.0, [0.0, 1.0])
    assert found.frontier  # a budget can be set all the same


def test_a_budget_is_nearly_spent(answers):
    found = calibrate(answers, Constraint("budget", 0.6), CLASSES)
    assert 0.55 < found.observed < found.bound <= 0.6
    assert found.observed == pytest.approx(found.cost_ratio)
    # and spent well: a policy of the frontier that costs as much doesn't agree much better
    rival = policy_for_budget({"frontier": found.frontier}, found.cost_ratio)
    assert answers.route([found.policy]).disagrees.mean() < answers.route([rival]).disagrees.mean() + 0.01
    assert not calibrate(answers, Constraint("budget", 0.3), CLASSES).met  # below the narrowest width


def test_milliseconds_are_kept_within_a_limit(answers):
    timed = replace(answers, way_milliseconds=sum_along_ways(np.array([2.0, 6.0]), 4.5, ways_of(2)))
    found = calibrate(timed, Constraint("latency_ms", 4.0), CLASSES)
    assert 3.7 < found.observed < found.bound <= 4.0
    everything = calibrate(timed, Constraint("latency_ms", 20.0), CLASSES)
    assert everything.shares == [0.0, 1.0]
    assert everything.met
    slow_narrow = replace(answers, way_milliseconds=sum_along_ways(np.array([7.0, 6.0]), 4.5, ways_of(2)))
    assert calibrate(slow_narrow, Constraint("latency_ms", 6.5), CLASSES).shares == [0.0, 1.0]
    assert not calibrate(slow_narrow, Constraint("latency_ms", 5.5), CLASSES).met


def test_more_confidence_and_less_loss_cost_more(answers):
    def cost(limit, confidence, per_class=False):
        constraint = Constraint("max_disagreement", limit, confidence, per_class)
        return calibrate(answers, constraint, CLASSES).cost_ratio

    assert cost(0.02, 0.95) > cost(0.05, 0.95) > cost(0.08, 0.95)
    assert cost(0.05, 0.999) > cost(0.05, 0.8)
    assert cost(0.05, 0.95, per_class=True) > cost(0.05, 0.95)


def test_without_labels(answers):
    unlabelled = replace(answers, labels=None)
    found = calibrate(unlabelled, Constraint("max_disagreement", 0.05), CLASSES)
    assert found.policy == calibrate(answers, Constraint("max_disagreement", 0.05), CLASSES).policy
    assert found.accuracy is None
    assert found.full_accuracy is None
    assert {point["accuracy_drop"] for point in found.frontier} == {None}
    with pytest.raises(InputError, match="needs labels"):
        calibrate(unlabelled, Constraint("max_accuracy_drop", 0.05), CLASSES)


def test_what_can_not_be_calibrated(answers):
    with pytest.raises(InputError, match="9 rows: too few"):
        calibrate(answers.take(np.arange(9)), Constraint("budget", 0.5), CLASSES)
    with pytest.raises(InputError, match="needs times"):
        calibrate(answers, Constraint("latency_ms", 5.0), CLASSES)
    with pytest.raises(InputError, match=r"width 1\.0 only"):
        calibrate(
            run_all_widths(tiny_model(widths=(1.0,)), toy_rows(12), collate), Constraint("budget", 0.5), CLASSES
        )
    assert not calibrate(answers.take(np.arange(10)), Constraint("max_disagreement", 0.05), CLASSES).met


def test_losses_by_value_equal_plain_loops(answers, found):
    values = [f"v{index % 4}" for index in found.tested]
    disagrees, lost, gained = (getattr(found.routed, name) for name in ("disagrees", "lost", "gained"))
    table = [asdict(loss) for loss in losses_by(found.routed, values)]
    assert sum(entry["rows"] for entry in table) == len(found.tested)
    for entry in table:
        here = [number for number, value in enumerate(values) if value == entry["value"]]
        worse = sum(int(lost[n]) - int(gained[n]) for n in here)
        assert entry["accuracy_drop"] == pytest.approx(worse / len(here))
        assert entry["disagreement"] == pytest.approx(sum(disagrees[n] for n in here) / len(here))
    drops = [entry["accuracy_drop"] for entry in table]
    assert drops == sorted(drops, reverse=True)
    unlabelled = replace(found.routed.answers, labels=None).route([found.policy])[0]
    assert losses_by(unlabelled, values)[0].accuracy_drop is None


# Budgets from what is stored


@pytest.mark.parametrize("constraint", [Constraint("max_disagreement", 0.05), Constraint("budget", 0.6)])
def test_the_frontier_holds_what_nothing_beats(answers, constraint):
    frontier = calibrate(answers, constraint, CLASSES).frontier
    if constraint.kind == "max_disagreement":
        answers = answers.unblended()
    assert 10 < len(frontier) <= 33
    costs = [point["cost_ratio"] for point in frontier]
    assert costs == sorted(costs)
    risks = []
    for point in frontier:
        policy = replace(policy_of(point), blend=0.0)
        assert point["blend"] == (answers.blend if policy.escalates else 0)
        routed = answers.route([policy])
        risks.append(answers.unblended().route([policy]).disagrees.mean())
        assert point["cost_ratio"] == pytest.approx(routed.cost.sum() / answers.full_costs.sum())
        assert point["disagreement"] == pytest.approx(routed.disagrees.mean())
        assert point["accuracy_drop"] == pytest.approx(routed.lost.mean() - routed.gained.mean())
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] == 0
    beaten = [RoutingPolicy(3.0), RoutingPolicy(3.0, 0.9), RoutingPolicy(3.0, 0.9)]
    assert len(build_frontier(answers, beaten)) == 2


def test_the_frontier_is_chosen_without_the_blend(answers):
    """A blend that changes many answers changes what is reported of the policies, not which they are."""
    answers = replace(answers, labels=None)
    strange = answers.way_predictions.copy()
    strange[np.random.default_rng(0).random(len(answers)) < 0.4, -1] = 0  # narrow and then full
    blended = replace(answers, way_predictions=strange)
    policies = all_policies(answers)
    found, expected = (build_frontier(of, policies) for of in (blended, answers.unblended()))
    settings = ("cost_weight", "escalation_threshold", "blend", "cost_ratio")
    assert [[p[name] for name in settings] for p in found] == [[p[name] for name in settings] for p in expected]
    assert [p["disagreement"] for p in found] != [p["disagreement"] for p in expected]


def test_no_budget_buys_what_is_surely_worse(answers):
    """Where the narrow network is the better one, labels say so; a few rows in which it is ahead say nothing."""
    predictions, truth = answers.predictions, answers.labels
    narrow_right = np.flatnonzero((predictions[:, 0] == truth) & (predictions[:, 1] != truth))
    full_right = np.flatnonzero((predictions[:, 1] == truth) & (predictions[:, 0] != truth))
    both = np.flatnonzero((predictions == truth[:, None]).all(axis=1))
    policies = [RoutingPolicy(start="width-25"), RoutingPolicy(start="full")]
    for ahead, behind, expected in ((11, 1, 1), (6, 5, 2), (1, 11, 2)):
        rows = answers.take(np.concatenate([narrow_right[:ahead], full_right[:behind], both[:500]]))
        assert len(rows) == ahead + behind + 500
        assert len(build_frontier(rows, policies)) == expected
        assert len(build_frontier(replace(rows, labels=None), policies)) == 2


def test_a_budget_picks_what_spends_the_most_within_it(bert_path, found):
    model = load_routed(bert_path)
    model.config.calibration = found.record()
    for budget in (0.4, 0.6, 0.99, 5.0):
        model.set_budget(budget)
        within = [point for point in found.frontier if point["cost_ratio"] <= budget]
        best = max(within, key=lambda point: point["cost_ratio"])
        assert model.config.policy == policy_of(best).to_dict()


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), "half", True])
def test_budgets_that_are_none_are_refused(budget, found):
    with pytest.raises(InputError, match="has to be a number above 0"):
        policy_for_budget(found.record(), budget)


def test_a_budget_needs_a_calibration_and_has_a_least(bert_path, found):
    model = load_routed(bert_path)
    with pytest.raises(InputError, match="never calibrated"):
        model.set_budget(0.5)
    model.config.calibration = found.record()
    before = dict(model.config.policy)
    with pytest.raises(InputError, match=r"cheapest policy costs 0\.350"):
        model.set_budget(0.2)
    assert model.config.policy == before


def test_a_calibration_travels_with_the_model(bert_path, tmp_path, found):
    model = load_routed(bert_path)
    model.config.calibration = found.record()
    model.config.policy = found.record()["policy"]
    model.save_pretrained(tmp_path)
    again = SharcsForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.calibration == model.config.calibration == json.loads(json.dumps(found.record()))
    assert again.config.routing_policy == found.policy
    again.set_budget(0.6)
    assert SharcsConfig(encoder=model.config.encoder, widths=model.config.widths).calibration is None


# Of a real, tiny network


@pytest.fixture(scope="module")
def network():
    model = tiny_model()
    rows = toy_rows(120)
    return model, rows, run_all_widths(model, rows, collate)


@pytest.mark.parametrize("full", [True, False])
def test_a_policy_starts_at_a_named_sub_network_whatever_the_router_says(full, network):
    model, rows, answers = network
    policy = RoutingPolicy(start="full" if full else "width-25")
    with torch.no_grad():
        bias = model.tail.router.output.bias.clone()
        model.tail.router.output.bias.copy_(torch.tensor([50.0, -50.0] if full else [-50.0, 50.0]))  # against it
        model.config.policy = policy.to_dict()
        batch = collate(rows[:20])
        assert model(input_ids=batch["input_ids"]).width_index.tolist() == [int(full)] * 20
        model.tail.router.output.bias.copy_(bias)
    assert answers.route([policy]).answered_by.tolist() == [[int(full)] * len(answers)]


def test_no_input_spends_more_than_the_largest_cost(network):
    _, _, answers = network
    always = answers.route([RoutingPolicy(0.0, 1.0, start="width-25")])
    assert always.cost.max() <= answers.most_spent <= 1.001 * always.cost.max()


def test_measured_times_leave_the_policy_alone(network):
    model, rows, _ = network
    model.config.policy = {"cost_weight": 0.25}
    times = measure_times(model, rows, collate)
    assert model.config.policy == {"cost_weight": 0.25}
    assert times.shape == (3,)
    assert (times > 0).all()
    assert times[2] >= times[0]


def test_a_loss_is_bounded_by_true_class_and_a_disagreement_by_the_full_networks(answers):
    drop, disagreement = Constraint("max_accuracy_drop", 0.1), Constraint("max_disagreement", 0.1)
    assert (answers.labels != answers.full_predictions).any()
    np.testing.assert_array_equal(classes_bounded(answers, drop), answers.labels)
    np.testing.assert_array_equal(classes_bounded(answers, disagreement), answers.full_predictions)
    without = replace(answers, labels=None)
    np.testing.assert_array_equal(classes_bounded(without, drop), answers.full_predictions)
