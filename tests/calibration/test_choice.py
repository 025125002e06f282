"""The guarantee as such, on a population whose risks are known; and that choosing among policies doesn't void it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from helpers.population import CLASSES, make_population, resample
from helpers.toys import below_threshold
from sharcs import InputError
from sharcs.calibration import choice, policies
from sharcs.calibration.choice import Constraint, choose
from sharcs.calibration.policies import all_policies, policy_paths
from sharcs.config import RoutingPolicy
from sharcs_runtime.policy import choose_width
from sharcs_runtime.ways import sum_along_ways, ways_of

RESAMPLES = 1000


def allowed(resamples):
    """Three standard errors more than the share of violations that is promised."""
    return 0.05 + 3 * math.sqrt(0.05 * 0.95 / resamples)


@pytest.fixture(scope="module")
def population():
    return make_population(20_000)


@pytest.fixture
def coarse(monkeypatch):
    """Fewer policies, for the many resamples."""
    monkeypatch.setattr(policies, "THRESHOLDS", 21)
    monkeypatch.setattr(policies, "FIRST_CHOICES", 1)


def risks(population, tried, kind):
    """Look up the truth."""
    found = []
    for piece in population.in_pieces(tried):
        routed = population.route(piece)
        if kind == "budget":
            found.append(routed.spent.mean(1) / population.weights.mean())
        elif kind == "max_disagreement":
            found.append(routed.disagrees.mean(1))
        else:
            found.append(routed.lost.mean(1) - routed.gained.mean(1))
    return np.concatenate(found)


def worst_class(population, tried, kind):
    of = population.labels if kind == "max_accuracy_drop" else population.full_predictions
    parts = [population.take(np.flatnonzero(of == index)) for index in range(CLASSES)]
    return np.max([risks(part, tried, kind) for part in parts], axis=0)


def chosen_policies(population, rows, choose_one, resamples=RESAMPLES):
    draw = np.random.default_rng(1)
    found = [choose_one(resample(population, rows, draw), seed) for seed in range(resamples)]
    return [policy for policy in found if policy is not None]


# Policies and paths


@pytest.mark.parametrize("inverted", [False, True])
def test_within_a_budget_that_path_is_taken_whose_answers_give_the_truth_most(inverted):
    """Two paths cost the same: how many of their answers are right says another thing than their probabilities."""
    population = make_population(2000, widths=(0.3, 0.31, 1.02))
    narrow, wider = (RoutingPolicy(start=name) for name in population.names[:2])
    right = population.way_right[:, :2].mean(0)
    assert right[1] > right[0]
    better = int(right.argmin()) if inverted else int(right.argmax())
    scores = np.full(population.way_predictions.shape, 0.5, np.float32)
    scores[:, better] = 0.9
    free = np.array(population.cost_coefficients)
    free[:2] = free[0]
    told = replace(population, way_label_scores=scores, cost_coefficients=free)
    budget = Constraint("budget", 0.6)
    ratings = [choice._sequence(told, [RoutingPolicy(start="full"), one], budget)[0] for one in (narrow, wider)]
    assert int(np.argmin(ratings)) == better
    assert min(ratings) == pytest.approx(0.1, abs=1e-6)
    unlabelled = replace(told, labels=None)
    ratings = [choice._sequence(unlabelled, [RoutingPolicy(start="full"), one], budget)[0] for one in (narrow, wider)]
    disagree = told.route([narrow, wider]).disagrees.mean(1)
    assert ratings == pytest.approx(disagree.tolist())


@pytest.mark.parametrize("widths", [(0.35, 1.01), (0.3, 0.6, 1.02)])
def test_policies_are_tried_as_the_network_routes(widths):
    answers = make_population(300, widths=widths)
    tried = all_policies(answers)
    assert len(tried) > 500
    routed = answers.route(tried)
    ways = ways_of(len(widths))
    labels, full = answers.labels, answers.predictions[:, -1]
    row = np.arange(300)
    for index, policy in enumerate(tried):
        first = choose_width(answers.router_logits, answers.relative_costs, policy, answers.names)
        escalates = below_threshold(answers.scores[row, first], first, policy, answers.names)
        last = np.where(escalates, len(widths) - 1, first)
        way = [ways.index((a,) if a == b else (a, b)) for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        said = answers.way_predictions[row, way]
        assert routed.start[index].tolist() == first.tolist()
        assert routed.answered_by[index].tolist() == last.tolist()
        assert routed.answer[index].tolist() == said.tolist()
        assert routed.disagrees[index].tolist() == (said != full).tolist()
        assert routed.lost[index].tolist() == ((full == labels) & (said != labels)).tolist()
        assert routed.gained[index].tolist() == ((full != labels) & (said == labels)).tolist()
        assert routed.spent[index].tolist() == routed.cost[index].tolist()
        lengths = 1000.0 * answers.lengths
        expected = np.array(widths)[first] * lengths + np.where(first == last, 0.0, 0.67 * lengths)
        assert routed.cost[index].tolist() == pytest.approx(expected.tolist())


def test_along_a_path_no_input_gets_dearer_or_better():
    answers = make_population(400)
    for path in policy_paths(answers):
        routed = answers.route(path)
        assert routed.answered_by[0].tolist() == [1] * 400
        assert routed.answered_by[-1].tolist() == [0] * 400
        assert not routed.disagrees[0].any()
        assert (np.diff(routed.disagrees.astype(int), axis=0) >= 0).all()
        # From the full network to escalating nearly every input the cost goes up, and down from there.
        assert (np.diff(routed.cost[1:-1], axis=0) <= 1e-9).all()


def test_paths_are_of_all_three_kinds():
    paths = [path[1:-1] for path in policy_paths(make_population(400))]
    assert {policy.start for policy in paths[0]} == {"width-25"}
    assert all(policy.escalates for policy in paths[0])
    assert not any(policy.escalates for policy in paths[1])
    assert len({policy.cost_weight for policy in paths[1]}) > 30
    for path in paths[2:]:
        assert len({policy.cost_weight for policy in path}) == 1
        assert {policy.start for policy in path} == {"router"}
        assert all(policy.escalates for policy in path)


def test_milliseconds_are_counted_where_times_were_measured():
    answers = make_population(50)
    timed = replace(answers, way_milliseconds=sum_along_ways(np.array([2.0, 5.0]), 4.0, ways_of(2)))
    routed = timed.route([RoutingPolicy(3.0), RoutingPolicy(-3.0), RoutingPolicy(3.0, 0.9)])
    assert routed.spent[0].tolist() == [2.0] * 50
    assert routed.spent[1].tolist() == [5.0] * 50
    escalating = (answers.scores[:, 0] < 0.9).tolist()
    assert routed.spent[2].tolist() == [6.0 if each else 2.0 for each in escalating]
    assert timed.most_spent == 6.0  # narrow and then on, which is more than full at once
    assert timed.weights.tolist() == [1.0] * 50


# The guarantee


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "limit", "rows", "resamples"),
    [
        pytest.param("max_disagreement", 0.03, 400, RESAMPLES, marks=pytest.mark.extended),
        ("max_accuracy_drop", 0.02, 600, RESAMPLES),
        ("budget", 0.6, 300, RESAMPLES // 4),
    ],
)
def test_a_chosen_policy_breaks_its_limit_no_more_often_than_promised(
    kind, limit, rows, resamples, population, coarse
):
    constraint = Constraint(kind, limit)

    def choose_one(answers, seed):
        return choose(answers, constraint, CLASSES, seed).policy

    chosen = chosen_policies(population, rows, choose_one, resamples)
    truth = risks(population, chosen, kind)
    assert (truth > limit).sum() / resamples <= allowed(resamples)
    assert len(chosen) > resamples / 2  # it does choose
    assert (truth > 0.8 * limit).mean() > 0.05  # near the limit, too


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["max_disagreement", "max_accuracy_drop"])
def test_the_worst_class_is_within_the_limit_as_often_as_promised(kind, coarse):
    population, limit = make_population(20_000, rare=True), 0.12
    constraint = Constraint(kind, limit, per_class=True)
    resamples = RESAMPLES // 4

    def choose_one(answers, seed):
        return choose(answers, constraint, CLASSES, seed).policy

    chosen = chosen_policies(population, 500, choose_one, resamples)
    assert len(chosen) > resamples / 2
    truth = worst_class(population, chosen, kind)
    assert (truth > limit).sum() / resamples <= allowed(resamples)
    assert (risks(population, chosen, kind) < limit / 2).mean() > 0.9  # the mean hides the class


def test_the_cheapest_policy_that_looks_good_breaks_its_limit(population, coarse):
    limit = 0.03

    def naive(answers, _):
        tried = all_policies(answers)
        routed = answers.route(tried)
        return tried[int(np.where(routed.disagrees.mean(1) <= limit, routed.spent.mean(1), np.inf).argmin())]

    truth = risks(population, chosen_policies(population, 400, naive, 200), "max_disagreement")
    assert (truth > limit).mean() > 0.5


def test_the_rows_that_test_have_no_say_in_what_is_tested(population):
    answers = resample(population, 500, np.random.default_rng(0))
    constraint = Constraint("max_disagreement", 0.05)
    before = choose(answers, constraint, CLASSES)
    assert len(before.tested) == 400
    tested = before.tested
    answers.way_scores["probability"][tested] *= 0.9
    answers.router_logits[tested] = answers.router_logits[tested, ::-1]
    after = choose(answers, constraint, CLASSES)
    assert after.tried == before.tried
    assert after.tested.tolist() == before.tested.tolist()
    # Sure and wrong on all of these rows: nothing passes.
    answers.scores[tested] = 1.0
    answers.predictions[tested, 0] = (answers.predictions[tested, 1] + 1) % CLASSES
    assert choose(answers, constraint, CLASSES).policy is None


def test_testing_ends_at_the_first_policy_that_fails(population):
    answers = resample(population, 2000, np.random.default_rng(0))
    test = choose(answers, Constraint("max_disagreement", 0.05), CLASSES).test
    good, bad, good_too = RoutingPolicy(3.0, 0.95), RoutingPolicy(3.0), RoutingPolicy(3.0, 0.94)
    assert test.last_passing([good, good_too]) == good_too
    assert test.last_passing([good, bad, good_too]) == good
    assert test.last_passing([bad, good]) is None


def test_a_class_that_was_not_seen_is_not_vouched_for(population):
    answers = resample(population, 2000, np.random.default_rng(0))
    constraint = Constraint("max_disagreement", 0.1, per_class=True)
    found = choose(answers, constraint, CLASSES)
    assert found.policy is not None
    assert choose(answers, constraint, CLASSES + 1).policy is None
    # Observation and bound are those of the worst class.
    routed, full = found.test.rows.route([found.policy]), found.test.rows.full_predictions
    rates = [routed.disagrees[0][full == index].mean() for index in range(CLASSES)]
    observed, bound = found.test.evidence(found.policy)
    assert observed == pytest.approx(max(rates))
    assert observed < bound <= 0.1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("budget", 0.0), "`budget` 0: has to be above 0 and at most 1"),
        (("budget", 1.5), "`budget` 1.5"),
        (("budget", math.nan), "`budget` nan"),
        (("latency_ms", -1.0), "`latency_ms` -1: has to be a number of milliseconds above 0"),
        (("latency_ms", math.inf), "`latency_ms` inf"),
        (("max_accuracy_drop", 0.0), "`max_accuracy_drop` 0: has to be between 0 and 1"),
        (("max_disagreement", 1.0), "`max_disagreement` 1"),
        (("max_disagreement", 0.1, 1.0), "`confidence` 1: has to be between 0 and 1"),
        (("budget", 0.5, 0.95, True), "`per_class`: bounds a loss"),
    ],
)
def test_constraints_that_are_none_are_refused(settings, says):
    with pytest.raises(InputError, match=says.replace(".", r"\.")):
        Constraint(*settings)


@pytest.mark.parametrize("limit", [0.02, 0.1])
def test_rows_needed_are_those_without_a_loss(limit):
    needed = Constraint("max_disagreement", limit).rows_needed()
    tests = needed - round(choice.CHOOSING_SHARE * needed)
    assert (1 - limit) ** tests <= 0.05
    assert (1 - limit) ** (tests - 3) > 0.05
    assert Constraint("budget", 0.5).rows_needed() == 0
