"""What a calibration says and stores, and budgets without data at hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.encoders import load_routed
from helpers.population import CLASSES, make_population
from helpers.tiny import collate, tiny_model, toy_rows
from sharcs import InputError, RoutingPolicy, SharcsConfig, SharcsForSequenceClassification
from sharcs.calibration.calibrate import calibrate, losses_by
from sharcs.calibration.choice import Constraint
from sharcs.calibration.frontier import build_frontier
from sharcs.calibration.latency import measure_times
from sharcs.calibration.trials import Times, Trial, policy_paths
from sharcs.config import policy_for_budget, policy_of
from sharcs.evaluation.widths import run_all_widths


@pytest.fixture(scope="module")
def trial():
    return make_population(3000, seed=3)


@pytest.fixture(scope="module")
def found(trial):
    return calibrate(trial, Constraint("max_disagreement", 0.05), CLASSES)


def test_what_is_said_of_a_policy_is_what_the_tested_rows_say(trial, found):
    rows = trial.take(found.tested)
    applied = rows.apply([found.policy])
    answers = torch.where(torch.from_numpy(applied.last[0]) == 1, rows.outputs.predictions[:, 1],
                          rows.outputs.predictions[:, 0])  # fmt: skip
    assert found.met
    assert (found.rows, found.rows_tested) == (3000, 2400)
    assert (
        found.disagreement
        == found.observed
        == pytest.approx(float((answers != rows.outputs.predictions[:, 1]).float().mean()))
    )
    assert found.observed < found.bound <= 0.05
    assert found.accuracy == pytest.approx(float((answers == rows.labels).float().mean()))
    assert found.full_accuracy == pytest.approx(float((rows.outputs.predictions[:, 1] == rows.labels).float().mean()))
    assert found.cost_ratio == pytest.approx(applied.flops.sum() / float(rows.costs.full.sum()))
    assert sum(found.shares) == pytest.approx(1)
    assert found.shares[0] == (applied.last == 0).mean()
    assert found.cost_ratio < 0.8


def test_a_limit_that_nothing_keeps_leaves_the_full_network(trial):
    found = calibrate(trial, Constraint("max_disagreement", 0.0005), CLASSES)
    assert not found.met
    assert found.bound is None
    assert found.policy == trial.policy_of_one_width(full=True)
    assert (found.observed, found.shares) == (0.0, [0.0, 1.0])
    assert found.frontier  # a budget can be set all the same


def test_a_budget_is_nearly_spent(trial):
    found = calibrate(trial, Constraint("budget", 0.6), CLASSES)
    assert 0.55 < found.observed < found.bound <= 0.6
    assert found.observed == pytest.approx(found.cost_ratio)
    # and spent well: a policy of the frontier that costs as much doesn't agree much better
    rival = policy_for_budget({"frontier": found.frontier}, found.cost_ratio)
    assert trial.apply([found.policy]).disagrees.mean() < trial.apply([rival]).disagrees.mean() + 0.01
    assert not calibrate(trial, Constraint("budget", 0.3), CLASSES).met  # below the narrowest width


def test_milliseconds_are_kept_within_a_limit(trial):
    timed = replace(trial, times=Times(np.array([2.0, 6.0]), 4.5))
    found = calibrate(timed, Constraint("latency_ms", 4.0), CLASSES)
    assert 3.7 < found.observed < found.bound <= 4.0
    everything = calibrate(timed, Constraint("latency_ms", 20.0), CLASSES)
    assert everything.shares == [0.0, 1.0]
    assert everything.met
    slow_narrow = replace(trial, times=Times(np.array([7.0, 6.0]), 4.5))
    assert calibrate(slow_narrow, Constraint("latency_ms", 6.5), CLASSES).shares == [0.0, 1.0]
    assert not calibrate(slow_narrow, Constraint("latency_ms", 5.5), CLASSES).met


def test_more_confidence_and_less_loss_cost_more(trial):
    def cost(limit, confidence, per_class=False):
        constraint = Constraint("max_disagreement", limit, confidence, per_class)
        return calibrate(trial, constraint, CLASSES).cost_ratio

    assert cost(0.02, 0.95) > cost(0.05, 0.95) > cost(0.08, 0.95)
    assert cost(0.05, 0.999) > cost(0.05, 0.8)
    assert cost(0.05, 0.95, per_class=True) > cost(0.05, 0.95)


def test_without_labels(trial):
    unlabelled = replace(trial, labels=None)
    found = calibrate(unlabelled, Constraint("max_disagreement", 0.05), CLASSES)
    assert found.policy == calibrate(trial, Constraint("max_disagreement", 0.05), CLASSES).policy
    assert found.accuracy is None
    assert found.full_accuracy is None
    assert {point["accuracy_drop"] for point in found.frontier} == {None}
    with pytest.raises(InputError, match="needs labels"):
        calibrate(unlabelled, Constraint("max_accuracy_drop", 0.05), CLASSES)


def test_what_can_not_be_calibrated(trial):
    with pytest.raises(InputError, match="9 rows: too few"):
        calibrate(trial.take(np.arange(9)), Constraint("budget", 0.5), CLASSES)
    with pytest.raises(InputError, match="needs times"):
        calibrate(trial, Constraint("latency_ms", 5.0), CLASSES)
    with pytest.raises(InputError, match=r"width 1\.0 only"):
        Trial.of(tiny_model(widths=(1.0,)), trial.outputs, None, 40)
    assert not calibrate(trial.take(np.arange(10)), Constraint("max_disagreement", 0.05), CLASSES).met


def test_losses_by_value_equal_plain_loops(trial, found):
    values = [f"v{index % 4}" for index in found.tested]
    disagrees, lost, gained = (getattr(found.applied, name)[0] for name in ("disagrees", "lost", "gained"))
    table = losses_by(disagrees, lost.astype(int) - gained, values)
    assert sum(entry["rows"] for entry in table) == len(found.tested)
    for entry in table:
        here = [number for number, value in enumerate(values) if value == entry["value"]]
        worse = sum(int(lost[n]) - int(gained[n]) for n in here)
        assert entry["accuracy_drop"] == pytest.approx(worse / len(here))
        assert entry["disagreement"] == pytest.approx(sum(disagrees[n] for n in here) / len(here))
    drops = [entry["accuracy_drop"] for entry in table]
    assert drops == sorted(drops, reverse=True)
    assert losses_by(disagrees, None, values)[0]["accuracy_drop"] is None


# Budgets from what is stored


@pytest.mark.parametrize("constraint", [Constraint("max_disagreement", 0.05), Constraint("budget", 0.6)])
def test_the_frontier_holds_what_nothing_beats(trial, constraint):
    frontier = calibrate(trial, constraint, CLASSES).frontier
    if constraint.kind == "max_disagreement":
        trial = trial.unblended()
    assert 10 < len(frontier) <= 33
    costs = [point["cost_ratio"] for point in frontier]
    assert costs == sorted(costs)
    risks = []
    for point in frontier:
        policy = replace(policy_of(point), blend=0.0)
        assert point["blend"] == (trial.blend if policy.escalates else 0)
        applied = trial.apply([policy])
        risks.append(trial.unblended().apply([policy]).disagrees.mean())
        assert point["cost_ratio"] == pytest.approx(applied.flops.sum() / float(trial.costs.full.sum()))
        assert point["disagreement"] == pytest.approx(applied.disagrees.mean())
        assert point["accuracy_drop"] == pytest.approx(applied.lost.mean() - applied.gained.mean())
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] == 0
    beaten = [RoutingPolicy(3.0), RoutingPolicy(3.0, 0.9), RoutingPolicy(3.0, 0.9)]
    assert len(build_frontier(trial, beaten)) == 2


def test_the_frontier_is_chosen_without_the_blend(trial):
    """A blend that changes many answers changes what is reported of the policies, not which they are."""
    trial = replace(trial, labels=None)
    draw = torch.Generator().manual_seed(0)
    shape = trial.outputs.escalated.shape
    strange = torch.where(torch.rand(shape, generator=draw) < 0.4, 0, trial.outputs.escalated)
    blended = replace(trial, outputs=replace(trial.outputs, escalated=strange))
    policies = [policy for path in policy_paths(trial) for policy in path]
    found, expected = (build_frontier(of, policies) for of in (blended, trial.unblended()))
    settings = ("cost_weight", "escalation_threshold", "blend", "cost_ratio")
    assert [[p[name] for name in settings] for p in found] == [[p[name] for name in settings] for p in expected]
    assert [p["disagreement"] for p in found] != [p["disagreement"] for p in expected]


def test_no_budget_buys_what_is_surely_worse(trial):
    """Where the narrow network is the better one, labels say so; a few rows in which it is ahead say nothing."""
    predictions, truth = trial.outputs.predictions, trial.labels
    narrow_right = torch.nonzero((predictions[:, 0] == truth) & (predictions[:, 1] != truth))[:, 0]
    full_right = torch.nonzero((predictions[:, 1] == truth) & (predictions[:, 0] != truth))[:, 0]
    both = torch.nonzero((predictions == truth[:, None]).all(dim=1))[:, 0]
    policies = [trial.policy_of_one_width(full=False), trial.policy_of_one_width(full=True)]
    for ahead, behind, expected in ((11, 1, 1), (6, 5, 2), (1, 11, 2)):
        rows = trial.take(torch.cat([narrow_right[:ahead], full_right[:behind], both[:500]]).numpy())
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
    model, rows, outputs = network
    trial = Trial.of(model, outputs, None, 40)
    with torch.no_grad():
        bias = model.tail.router.output.bias.clone()
        model.tail.router.output.bias.copy_(torch.tensor([50.0, -50.0] if full else [-50.0, 50.0]))  # against it
        model.config.policy = trial.policy_of_one_width(full).to_dict()
        batch = collate(rows[:20])
        assert model(input_ids=batch["input_ids"]).width_index.tolist() == [int(full)] * 20
        model.tail.router.output.bias.copy_(bias)
    assert trial.apply([trial.policy_of_one_width(full)]).last.tolist() == [[int(full)] * len(trial)]


def test_no_input_spends_more_than_the_largest_cost(network):
    model, _, outputs = network
    trial = Trial.of(model, outputs, None, int(outputs.lengths.max()))
    always = trial.apply([RoutingPolicy(0.0, 1.0, start="width-25")])
    assert always.flops.max() <= trial.largest <= 1.001 * always.flops.max()


def test_measured_times_leave_the_policy_alone(network):
    model, rows, _ = network
    model.config.policy = {"cost_weight": 0.25}
    times = measure_times(model, rows, collate)
    assert model.config.policy == {"cost_weight": 0.25}
    assert times.widths.shape == (2,)
    assert (times.widths > 0).all()
    assert times.continuation >= 0
