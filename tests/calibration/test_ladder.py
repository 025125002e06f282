"""A ladder: each rung's policy, its own test, and how often any of them breaks its limit, in a known population."""

import numpy as np
import pytest

from helpers.population import make_population, resample
from sharcs import InputError
from sharcs.calibration import ladder
from sharcs.calibration.bounds import rate_p
from sharcs.calibration.ladder import calibrate_ladder

LIMITS = (0.02, 0.05, 0.10)


@pytest.fixture(scope="module")
def population():
    return make_population(60_000)


def rate(population, policy):
    return float(population.unblended().route([policy])[0].disagrees.mean())


def test_each_rung_is_cheaper_and_its_evidence_is_the_tested_rows(population):
    rows = resample(population, 6000, np.random.default_rng(1))
    rungs = calibrate_ladder(rows, LIMITS, 3)
    assert [rung.constraint.limit for rung in rungs] == list(LIMITS)
    assert all(rung.met for rung in rungs)
    assert rungs[0].cost_ratio > rungs[1].cost_ratio > rungs[2].cost_ratio
    for rung in rungs:
        tested = rows.unblended().take(rung.tested)
        wrong = int(tested.route([rung.policy])[0].disagrees.sum())
        assert (rung.rows_tested, rung.observed) == (len(tested), wrong / len(tested))
        assert rate_p(wrong, len(tested), rung.constraint.limit) <= 0.05
        assert rung.observed < rung.bound <= rung.constraint.limit
    assert rungs[0].frontier
    assert not rungs[1].frontier


def test_the_rungs_break_a_limit_together_no_more_often_than_promised(population):
    """At confidence 0.8, so that few draws tell; none of them is chosen by the rows that test."""
    draw, broken, passed = np.random.default_rng(2), 0, 0
    for seed in range(30):
        rungs = calibrate_ladder(resample(population, 700, draw), LIMITS, 3, confidence=0.8, seed=seed)
        met = [rung for rung in rungs if rung.met]
        passed += len(met)
        broken += any(rate(population, rung.policy) > rung.constraint.limit for rung in met)
    assert passed > 30
    assert broken <= 30 * 0.2 + 2.33 * (30 * 0.2 * 0.8) ** 0.5


def test_the_first_that_fails_ends_it(population, monkeypatch):
    rows = resample(population, 3000, np.random.default_rng(3))
    policies = [rung.policy for rung in calibrate_ladder(rows, LIMITS, 3)]
    assert len(policies) == 3
    wild = calibrate_ladder(rows, (0.02, 0.5), 3)[1].policy
    monkeypatch.setattr(ladder, "_cheapest", lambda *_: [policies[0], wild, policies[2]])
    assert [rung.policy for rung in calibrate_ladder(rows, LIMITS, 3)] == [policies[0]]
    monkeypatch.setattr(ladder, "_cheapest", lambda *_: [wild, *policies[1:]])
    (only,) = calibrate_ladder(rows, LIMITS, 3)
    assert not only.met
    assert only.policy.start == "full"


@pytest.mark.parametrize("limits", [(), (0.05, 0.02), (0.02, 0.02), (0.0, 0.1), (0.1, 1.0)])
def test_limits_have_to_ascend(population, limits):
    with pytest.raises(InputError, match=r"`ladder` .*have to ascend between 0 and 1"):
        calibrate_ladder(population, limits, 3)


def test_the_rows_that_test_have_no_part_in_the_policies(population, monkeypatch):
    rows = resample(population, 1000, np.random.default_rng(4))
    seen = []
    policies = ladder.all_policies
    monkeypatch.setattr(ladder, "all_policies", lambda answers: seen.append(answers) or policies(answers))
    rungs = calibrate_ladder(rows, LIMITS, 3)
    (choosing,) = seen
    apart = np.setdiff1d(np.arange(1000), rungs[0].tested)
    np.testing.assert_array_equal(choosing.router_logits, rows.router_logits[apart])
