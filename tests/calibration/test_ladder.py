"""A ladder: each rung's policy, its own test, and how often any of them breaks its limit, in a known population."""

import numpy as np
import pytest

from helpers.population import make_population, resample
from sharcs import InputError
from sharcs.calibration.bounds import rate_p
from sharcs.calibration.calibrate import calibrate
from sharcs.calibration.choice import Constraint
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
        assert rate_p(wrong, len(tested), rung.constraint.limit) <= 0.05 / 3
        assert rung.observed < rung.bound <= rung.constraint.limit
    assert rungs[0].frontier
    assert not rungs[1].frontier


def test_the_rungs_break_a_limit_together_no_more_often_than_promised(population):
    """At confidence 0.8, so that few draws tell."""
    draw, broken, passed = np.random.default_rng(2), 0, 0
    for seed in range(30):
        rungs = calibrate_ladder(resample(population, 700, draw), LIMITS, 3, confidence=0.8, seed=seed)
        met = [rung for rung in rungs if rung.met]
        passed += len(met)
        broken += any(rate(population, rung.policy) > rung.constraint.limit for rung in met)
    assert passed > 30
    assert broken <= 30 * 0.2 + 2.33 * (30 * 0.2 * 0.8) ** 0.5


def test_a_rung_that_is_no_cheaper_is_left_out_and_nothing_follows_a_strictest_that_fails(population):
    rows = resample(population, 3000, np.random.default_rng(3))
    strictest, last = (calibrate_ladder(rows, LIMITS, 3)[number].constraint.limit for number in (0, -1))
    assert [rung.constraint.limit for rung in calibrate_ladder(rows, (0.02, 0.0200001, 0.1), 3)] == [strictest, last]
    (only,) = calibrate_ladder(rows, (0.0001, 0.05, 0.1), 3)
    assert not only.met
    assert only.policy.start == "full"


@pytest.mark.parametrize("limits", [(), (0.05, 0.02), (0.02, 0.02), (0.0, 0.1), (0.1, 1.0)])
def test_limits_have_to_ascend(population, limits):
    with pytest.raises(InputError, match=r"`ladder` .*have to ascend between 0 and 1"):
        calibrate_ladder(population, limits, 3)


def test_each_rung_is_what_calibrate_finds_at_a_third_of_the_error(population):
    rows = resample(population, 3000, np.random.default_rng(4))
    for rung in calibrate_ladder(rows, LIMITS, 3, confidence=0.94):
        alone = calibrate(rows, Constraint("max_disagreement", rung.constraint.limit, 0.98), 3)
        assert (rung.policy, rung.bound) == (alone.policy, alone.bound)
        assert rung.constraint.confidence == 0.94
