"""The bounds, against sums over all outcomes in plain Python."""

import math

import numpy as np
import pytest

from sharcs.calibration.bounds import (
    bet_size,
    binomial_cdf,
    difference_p,
    difference_upper,
    mean_is_below,
    mean_upper,
    rate_p,
    rate_upper,
)


def binomial(k, n, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def trinomial(lost, gained, rows, lose, gain):
    ties = rows - lost - gained
    ways = math.comb(rows, lost) * math.comb(rows - lost, gained)
    return ways * lose**lost * gain**gained * (1 - lose - gain) ** ties


def outcomes(rows):
    return [(lost, gained) for lost in range(rows + 1) for gained in range(rows + 1 - lost)]


@pytest.mark.parametrize(("failures", "rows", "limit"), [(0, 1, 0.3), (2, 50, 0.1), (7, 7, 0.5), (30, 400, 0.1)])
def test_a_rate_is_tested_with_the_exact_tail(failures, rows, limit):
    expected = sum(binomial(k, rows, limit) for k in range(failures + 1))
    assert rate_p(failures, rows, limit) == pytest.approx(expected, rel=1e-9)


def test_the_tail_beyond_the_ends():
    assert binomial_cdf([-1, 5, 9], 5, 0.4).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(("failures", "rows"), [(0, 30), (3, 30), (29, 30), (11, 2000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_the_bound_of_a_rate_inverts_its_test(failures, rows, confidence):
    bound = rate_upper(failures, rows, confidence)
    assert sum(binomial(k, rows, bound) for k in range(failures + 1)) == pytest.approx(1 - confidence, rel=1e-6)


def test_nothing_is_known_without_rows():
    assert rate_p(0, 0, 0.5) == difference_p(0, 0, 0, 0.5, 0.95) == rate_upper(0, 0, 0.95) == 1.0
    assert mean_upper(np.array([]), np.array([]), 0.5, 0.95) == math.inf
    assert rate_upper(4, 4, 0.95) == 1.0


@pytest.mark.parametrize("limit", [-0.2, 0.0, 0.05, 0.2])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_paired_test_errs_no_more_than_it_says(limit, confidence):
    rows = 14
    refused = [(lost, gained) for lost, gained in outcomes(rows)
               if difference_p(lost, gained, rows, limit, confidence) <= 1 - confidence]  # fmt: skip
    assert refused, "a test that never refuses says nothing"
    worst = 0.0
    for above in (0.0, 0.03, 0.1):
        difference = limit + above
        for gain in np.linspace(max(0, -difference), (1 - difference) / 2, 60):
            worst = max(worst, sum(trinomial(*one, rows, gain + difference, gain) for one in refused))
    assert worst <= 1 - confidence + 1e-12


def test_the_paired_test_is_about_the_worst_of_the_rates_that_the_rows_allow():
    lost, gained, rows, limit, confidence = 4, 2, 60, 0.15, 0.95
    either = sum((lost, gained))
    miss = 0.05 * 0.05
    low, high = 1 - rate_upper(rows - either, rows, 1 - miss / 2), rate_upper(either, rows, 1 - miss / 2)
    tails = []
    for total in np.linspace(max(low, limit), high, 400):
        lose, gain = (total + limit) / 2, (total - limit) / 2
        tails.append(
            sum(trinomial(*one, rows, lose, gain) for one in outcomes(rows) if one[0] - one[1] <= lost - gained)
        )
    found = difference_p(lost, gained, rows, limit, confidence)
    assert max(tails) + miss <= found <= 1.1 * max(tails) + miss


def test_the_bound_of_a_difference_inverts_its_test():
    for lost, gained, rows in [(0, 0, 100), (5, 3, 200), (40, 60, 1000)]:
        bound = difference_upper(lost, gained, rows, 0.95)
        assert bound > (lost - gained) / rows
        assert difference_p(lost, gained, rows, bound, 0.95) <= 0.05
        assert difference_p(lost, gained, rows, bound - 1e-4, 0.95) > 0.05


def test_gains_are_set_against_losses():
    # The losses' own bound is 2.2% here, twice the limit.
    assert rate_upper(30, 2000, 0.95) > 0.02
    assert difference_upper(30, 29, 2000, 0.95) < 0.01


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("bet", [0.05, 0.4, 0.8])
def test_the_bound_of_a_mean_errs_no_more_than_it_says(share, bet):
    rows, low, high = 40, 0.3, 1.1
    truth = low + share * (high - low)
    wrong = 0.0
    for count in range(rows + 1):
        costs = np.array([high] * count + [low] * (rows - count))
        if mean_upper(costs, np.ones(rows), bet, 0.9) < truth:
            wrong += binomial(count, rows, share)
    assert wrong <= 0.1


def test_the_bound_of_a_mean_is_of_the_ratio_of_means():
    draw = np.random.default_rng(0)
    weights = draw.uniform(0.1, 1.0, 5000)
    costs = weights * draw.choice([0.3, 1.1], 5000)
    bet = bet_size(costs, weights, 0.75, 1.1, 5000, 0.95)
    bound = mean_upper(costs, weights, bet, 0.95)
    assert costs.sum() / weights.sum() < bound < costs.sum() / weights.sum() + 0.03
    assert mean_is_below(costs, weights, bet, 0.95, bound)
    assert not mean_is_below(costs, weights, bet, 0.95, bound - 1e-6)


def test_no_bet_can_lose_everything():
    assert bet_size(np.ones(9), np.ones(9), 0.5, 2.0, 9, 0.95) == pytest.approx(0.45)  # no variance: the most
    assert bet_size(np.array([0.0, 2.0] * 50), np.ones(100), 1.0, 2.0, 2, 0.95) == pytest.approx(0.45)
    # √(2 log 20 / (rows · variance)) else
    assert bet_size(np.array([0.0, 2.0]), np.ones(2), 1.0, 2.0, 10_000, 0.95) == pytest.approx(
        math.sqrt(2 * math.log(20) / 10_000)
    )
