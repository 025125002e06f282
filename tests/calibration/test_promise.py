"""What a training promises of its policy: chosen on half of the held-out rows, and bounded on the other half."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sharcs.calibration.policies import all_policies, policy_paths
from sharcs.calibration.promise import (
    CONFIDENCE,
    MOST_LOST,
    Promise,
    cheapest_without_loss,
    choose_default,
    halves,
    promise_of,
)
from sharcs.evaluation.record import record_answers
from sharcs_runtime.policy import RoutingPolicy
from sharcs_runtime.ways import sum_along_ways, ways_of

NAMES = ("recurrent", "compact", "full")
ALONE = np.array([[0.0, 1.0, 0.0], [0.0, 12.0, 0.0], [0.0, 101.0, 0.0]])
RIGHT = (0.7, 0.8, 0.9)


def answers_of(rows, seed, front=2):
    """Draw rows that two cheap sub-networks and a full one answer, and of which they know how sure they are."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    logits = np.zeros((3, rows, 3), np.float32)
    for index, share in enumerate(RIGHT):
        sure = generator.normal(1.0, 0.8, rows)
        right = generator.random(rows) < share / (1 + np.exp(-2 * sure)) * 1.3
        answer = np.where(right, labels, (labels + generator.integers(1, 3, rows)) % 3)
        logits[index, np.arange(rows), answer] = np.exp(sure)
    routing = np.full((rows, 3), -np.inf, np.float32)
    routing[:, front:] = generator.normal(size=(rows, 3 - front))
    sums = sum_along_ways(ALONE, np.array([0.0, 80.0, 0.0]), ways_of(3), front, np.array([0.0, 1.0, 0.0]))
    costs = np.stack([*sums, [0.0, 100.0, 0.0]])
    lengths = generator.integers(3, 20, rows)
    return record_answers([(np.arange(rows), logits, routing)], NAMES, lengths, costs, blend=0.3, labels=labels)


def test_ways_from_the_front_start_anew_and_leave_the_router_out():
    costs = dict(zip(ways_of(3), sum_along_ways(ALONE[:, 1], 80.0, ways_of(3), 2, 1.0), strict=True))
    assert costs[0, 1, 2] == pytest.approx(1 + 12 + 101 - 1)
    assert costs[0, 2] == pytest.approx(1 + 101 - 1)
    assert costs[2,] == pytest.approx(101)
    inside = dict(zip(ways_of(3), sum_along_ways(ALONE[:, 1], 80.0, ways_of(3), 1, 1.0), strict=True))
    assert inside[0, 1, 2] == pytest.approx(1 + 12 - 1 + 80)


def test_paths_from_the_front_begin_with_the_full_network_and_get_cheaper():
    answers = answers_of(600, 0)
    assert answers.front == 2
    paths = policy_paths(answers)
    starts = {path[-1].start for path in paths}
    assert starts == {"recurrent", "compact"}
    assert any(set(path[1].escalation_threshold) == {"recurrent", "compact"} for path in paths)
    for path in paths:
        costs = answers.route(path).cost.mean(axis=1)
        assert path[0] == RoutingPolicy(start="full")
        assert (np.diff(costs[1:]) <= 1e-9).all()
        assert costs[-1] == pytest.approx(answers.costs[:, NAMES.index(path[-1].start)].mean())


def test_the_cheapest_policy_without_a_loss_is_that_of_a_search_through_all():
    answers = answers_of(300, 1)
    chosen = cheapest_without_loss(answers)
    best = math.inf
    for each in (answers, answers.unblended()):
        for policy in all_policies(each):
            routed = each.route([policy])[0]
            if routed.label_score.mean() >= answers.label_scores[:, -1].mean() and routed.lost.mean() <= MOST_LOST:
                best = min(best, routed.cost.mean())
    assert answers.route([chosen])[0].cost.mean() == pytest.approx(best)
    assert best < 0.9 * answers.full_costs.mean()


def cheap_ones(lost, gained, sure=2.0):
    """Answers of a hundred rows, where two cheap sub-networks are as sure as the full one, right or wrong."""
    rows = 100
    logits = np.zeros((3, rows, 2), np.float32)
    logits[..., 0] = 2.0  # the truth is 0
    logits[:2, :, 0] = sure
    logits[:2, :lost] *= -1
    logits[2, rows - gained :] *= -1
    batch = np.arange(rows), logits, np.zeros((rows, 3), np.float32)
    sums = sum_along_ways(ALONE, np.array([0.0, 80.0, 0.0]), ways_of(3), 2, np.array([0.0, 1.0, 0.0]))
    costs = np.stack([*sums, [0.0, 100.0, 0.0]])
    return record_answers([batch], NAMES, np.full(rows, 9), costs, labels=np.zeros(rows, np.int64))


@pytest.mark.parametrize(("lost", "start"), [(1, "recurrent"), (2, "full")])
def test_what_a_policy_gains_makes_up_for_few_losses_only(lost, start):
    assert cheapest_without_loss(cheap_ones(lost, gained=5)).start == start


@pytest.mark.parametrize(("sure", "start"), [(2.1, "recurrent"), (1.9, "full")])
def test_answers_have_to_give_the_truth_as_much_probability(sure, start):
    assert cheapest_without_loss(cheap_ones(0, gained=0, sure=sure)).start == start


def test_right_answers_are_counted_where_they_are_sets():
    answers = replace(cheap_ones(0, gained=0, sure=1.9), way_label_scores=None)
    assert cheapest_without_loss(answers).start == "recurrent"


def test_answers_are_blended_or_not_as_is_cheaper():
    """The full network is right alone, and not in an average with an answer that is wrong."""
    rows = 100
    logits = np.zeros((3, rows, 2), np.float32)
    logits[..., 0] = 2.0
    logits[:2, :50, 0] = -1.5  # and unsure
    batch = np.arange(rows), logits, np.zeros((rows, 3), np.float32)
    sums = sum_along_ways(ALONE, np.array([0.0, 80.0, 0.0]), ways_of(3), 2, np.array([0.0, 1.0, 0.0]))
    costs = np.stack([*sums, [0.0, 100.0, 0.0]])
    labels = np.zeros(rows, np.int64)
    answers = record_answers([batch], NAMES, np.full(rows, 9), costs, blend=0.7, labels=labels)
    chosen = cheapest_without_loss(answers)
    assert (chosen.start, chosen.blend) == ("recurrent", 0.0)
    assert answers.unblended().route([chosen])[0].right.all()


def test_halves_are_all_rows_once():
    one, other = halves(101, 3)
    assert sorted([*one, *other]) == list(range(101))
    assert abs(len(one) - len(other)) == 1


def test_bounds_hold_as_often_as_they_say():
    policy = RoutingPolicy(start="recurrent", escalation_threshold={"recurrent": 0.7, "compact": 0.8}, blend=0.3)
    truth = answers_of(100_000, 99).route([policy])[0]
    lost, differ = float(truth.lost.mean() - truth.gained.mean()), float(truth.disagrees.mean())
    broken = np.zeros(2)
    resamples = 120
    for seed in range(resamples):
        promise = promise_of(answers_of(250, seed), policy)
        broken += promise.loss_bound < lost, promise.disagreement_bound < differ
    allowed = (1 - CONFIDENCE) + 3 * math.sqrt((1 - CONFIDENCE) * CONFIDENCE / resamples)
    assert (broken / resamples <= allowed).all()


def test_a_promise_says_what_was_seen():
    answers = answers_of(600, 5)
    promise = choose_default(answers, seed=4)
    _, read_once = halves(600, 4)
    rows = answers.take(read_once)
    routed = rows.route([RoutingPolicy.from_dict(promise.policy)])[0]
    assert promise.rows == 300
    assert promise.accuracy == routed.right.mean()
    assert promise.accuracies[1] == (rows.predictions[:, 1] == rows.labels).mean()
    assert promise.cost_ratio == pytest.approx(routed.cost.mean() / rows.full_costs.mean())
    assert Promise(**promise.record()) == promise
    assert f"{100 * promise.accuracy:.1f}% right" in promise.lines()[0]
    assert choose_default(answers_of(90, 0)) is None


def test_a_network_that_has_not_learned_is_said_to_have_not():
    answers = answers_of(400, 5)
    answers.way_predictions[:] = 0
    promise = promise_of(answers, RoutingPolicy(start="recurrent"))
    assert "has not learned" in promise.lines()[-1]
