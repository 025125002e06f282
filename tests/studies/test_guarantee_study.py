"""The study of the guarantee: the truth of policies by hand, and limits that are broken as often as is counted."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.three_networks import three_networks

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import guarantee_study
import guarantee_tables
from sharcs.calibration.policies import all_policies
from sharcs_runtime.policy import RoutingPolicy


@pytest.fixture(scope="module")
def population():
    return three_networks(0)


def test_the_truth_is_that_of_all_rows(population):
    blended = RoutingPolicy(start="recurrent", escalation_threshold={"recurrent": 0.8, "compact": 0.9}, blend=0.3)
    plain = RoutingPolicy(start="recurrent", escalation_threshold={"recurrent": 0.8}, blend=0.0)
    found = guarantee_study.truths(population, [blended, plain, blended])
    for index, (policy, record) in enumerate(((blended, population), (plain, population.unblended()))):
        routed = record.route([policy])[0]
        assert found["max_disagreement"][index] == pytest.approx((routed.answer != record.full_predictions).mean())
        right, full = routed.answer == record.labels, record.full_predictions == record.labels
        assert found["max_accuracy_drop"][index] == pytest.approx(full.mean() - right.mean())
        assert found["cost"][index] == pytest.approx(routed.cost.sum() / record.full_costs.sum())
    assert found["cost"][2] == found["cost"][0]


def test_without_a_test_the_cheapest_within_the_limit_is_taken(population):
    chosen = guarantee_study.untested(population, "max_disagreement", 0.05)
    rated = [(guarantee_study.truths(population, [policy]), policy) for policy in all_policies(population)]
    kept = [truth["cost"][0] for truth, policy in rated if policy.blend and truth["max_disagreement"][0] <= 0.05]
    assert guarantee_study.truths(population, [chosen])["cost"][0] == pytest.approx(min(kept))


def test_draws_are_counted_by_what_is_true_of_them(population, monkeypatch):
    monkeypatch.setattr(guarantee_study, "DRAWS", 30)
    found = guarantee_study.of_limit(population, "max_disagreement", 0.1, 300, 3)
    assert found["tested"]["draws"] == 30
    assert found["untested"]["draws"] == 3
    assert found["tested"]["risk"] < found["untested"]["risk"]  # a test keeps away from the limit
    assert found["tested"]["broken"] <= 0.2
    monkeypatch.setattr(guarantee_study, "LADDER_DRAWS", 20)
    ladder = guarantee_study.of_ladder(population, 2000, 3)
    costs = [rung["cost"] for rung in ladder["rungs"]]
    assert costs == sorted(costs, reverse=True)
    assert max(rung["broken"] for rung in ladder["rungs"]) <= ladder["broken"] <= 0.2
    trained = guarantee_study.of_training(population, 300)
    assert trained["max_accuracy_drop"]["bound"] > trained["max_accuracy_drop"]["risk"]
    assert trained["max_disagreement"]["broken"] <= 0.2


def test_a_stream_alarms_soon_where_much_differs_and_seldom_where_little_does():
    draw = np.random.default_rng(0)
    changed = [guarantee_study._until_alarm(draw, 0.3, 0.05) for _ in range(20)]
    kept = [guarantee_study._until_alarm(draw, 0.03, 0.05) for _ in range(20)]
    assert max(changed) < 5000
    assert sum(map(math.isfinite, kept)) <= 2


def test_what_differs_more_is_noticed_sooner(population, monkeypatch):
    monkeypatch.setattr(guarantee_study, "STREAMS", 10)
    found = guarantee_study.detection(population, 400, 3)
    rates = [entry["rate"] for entry in found]
    assert rates == sorted(rates)
    assert found[0]["alarms"] <= found[-1]["alarms"] == 1.0


def test_tables_show_what_was_counted():
    of = {"cost": 0.123, "broken": 0.045, "risk": 0.01, "bound": 0.03}
    limit = {"kind": "max_disagreement", "limit": 0.02, "rows": 500, "none": 0.5, "tested": of, "untested": of}
    training = {"rows": 500, "max_accuracy_drop": of, "max_disagreement": of}
    drift = {"changed": 0.1, "rate": 0.02, "alarms": 0.0, "median_inputs": None}
    rungs = [{"limit": 0.02, "there": 1.0, "cost": 0.5}, {"limit": 0.05, "there": 0.0, "cost": None}]
    ladder = {"rows": 500, "broken": 0.01, "rungs": rungs}
    content = {"sets": {"sick": {"limits": [limit], "ladders": [ladder], "trainings": [training], "drift": [drift]}}}
    shown = [
        make(content).splitlines()[2]
        for make in (
            guarantee_tables.limits,
            guarantee_tables.ladders,
            guarantee_tables.trainings,
            guarantee_tables.drift,
        )
    ]
    assert shown == [
        "| sick | disagreement 2% | 500 | 12 | 4.5 | 12 | 4.5 | 50 |",
        "| sick | 500 | 1.0 | 100 | 50 | 0 | - |",
        "| sick | 500 | 12 | 1.0 | 3.0 | 4.5 | 1.0 | 3.0 | 4.5 |",
        "| sick | 10 | 2.0 | 0.0 |  |",
    ]
