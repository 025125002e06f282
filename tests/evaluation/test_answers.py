"""Ways through toy sub-networks, and policies of any number of steps, against a cascade that runs one input alone."""

import itertools
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.toys import CountedWords, TinyTable
from sharcs.errors import InputError
from sharcs.evaluation.curve import curve_policies
from sharcs.evaluation.record import record_answers
from sharcs_runtime import RoutingPolicy
from sharcs_runtime.cascade import Cascade
from sharcs_runtime.policy import choose_width
from sharcs_runtime.scores import blended, confidence, softmax
from sharcs_runtime.ways import sum_along_ways, way_taken, ways_of

NAMES = ("words", "table", "full")
SIGNALS = ("probability", "margin")
MULTI_LABEL = "multi_label_classification"
ALONE = np.array([[3.0, 1.0, 0.0], [5.0, 4.0, 0.0], [9.0, 20.0, 1.0]])
CONTINUATION = np.array([8.0, 19.5, 1.0])  # of the full network: its cost without 1 + T / 2 for what is kept
PLAIN = np.array([8.0, 20.0, 1.0])
COEFFICIENTS = np.stack([*sum_along_ways(ALONE, CONTINUATION, ways_of(3)), PLAIN])
INPUTS = 12

thresholds = st.one_of(
    st.none(),
    st.floats(0, 1),
    st.dictionaries(st.sampled_from(NAMES[:2]), st.floats(0, 1), min_size=1),
)
policies = st.builds(
    RoutingPolicy,
    cost_weight=st.floats(-3, 3),
    escalation_threshold=thresholds,
    start=st.sampled_from([*NAMES, "router"]),
    signal=st.sampled_from(SIGNALS),
)


def made_up(seed, problem_type=None, labels=4):
    """Draw logits ``[networks, inputs, labels]``, the router's, and lengths."""
    draw = np.random.default_rng(seed)
    logits = (2 * draw.standard_normal((3, INPUTS, labels))).astype(np.float32)
    router_logits = (2 * draw.standard_normal((INPUTS, 3))).astype(np.float32)
    return logits, router_logits, draw.integers(1, 30, INPUTS)


def recorded(logits, router_logits, lengths, **options):
    """Record them in two batches, in another order."""
    order = np.random.default_rng(0).permutation(INPUTS)
    batches = [(rows, logits[:, rows], router_logits[rows]) for rows in (order[:5], order[5:])]
    return record_answers(batches, NAMES, lengths, COEFFICIENTS, signals=SIGNALS, **options)


def cost_of(index, length, *, continued):
    """FLOPs of one sub-network, of an input that ran the trunk already or not."""
    saved = ALONE[-1] - CONTINUATION if continued else 0.0
    return float((ALONE[index] - saved) @ [1, length, length**2])


def run_alone(policy, logits, router_logits, length, problem_type):
    """Run one input through a cascade: the sub-networks that it ran, its logits at the end, and what it cost."""
    if policy.start == "router":
        relative = [cost_of(index, length, continued=False) / (PLAIN @ [1, length, length**2]) for index in range(3)]
        start = int(choose_width(router_logits[None], np.array([relative]), policy, NAMES)[0])
    else:
        start = NAMES.index(policy.start)
    cascade = Cascade(policy, NAMES, 1, problem_type)
    cascade.begin(np.array([0]), start)
    steps = []
    while pending := cascade.pending():
        ((index, rows),) = pending.items()
        steps.append(index)
        cascade.put(index, rows, logits[index][None])
    cost = sum(cost_of(index, length, continued=place > 0) for place, index in enumerate(steps))
    return steps, cascade.logits[0], cost


def test_ways_begin_with_each_sub_network_alone():
    assert ways_of(2) == ((0,), (1,), (0, 1))
    assert ways_of(3) == ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    assert len(ways_of(6)) == 63


def test_of_many_sub_networks_steps_to_the_full_one_are_recorded():
    ways = ways_of(7)
    assert ways == (*((index,) for index in range(7)), *((index, 6) for index in range(6)))
    logits = np.random.default_rng(9).standard_normal((7, INPUTS, 3)).astype(np.float32)
    names = tuple("abcdefg")
    batch = (np.arange(INPUTS), logits, np.zeros((INPUTS, 7), np.float32))
    answers = record_answers([batch], names, np.full(INPUTS, 5), np.ones((len(ways) + 1, 3)), blend=0.5)
    for threshold in (0.6, {"c": 0.6}):
        policy = RoutingPolicy(0.0, threshold, 0.5, start="c")
        routed = answers.route([policy])[0]
        for row in range(INPUTS):
            cascade = Cascade(policy, names, 1)
            cascade.begin(np.array([0]), 2)
            while pending := cascade.pending():
                ((index, rows),) = pending.items()
                cascade.put(index, rows, logits[index, row][None])
            assert routed.answered_by[row] == cascade.answered_by[0]
            assert routed.answer[row] == cascade.logits[0].argmax()
    with pytest.raises(InputError, match="several steps, which are recorded of up to 6 sub-networks; give a number"):
        answers.route([RoutingPolicy(0.0, {"a": 0.5, "c": 0.5})])


def test_a_way_costs_the_trunk_once():
    kept = ALONE[-1] - CONTINUATION
    expected = [*ALONE, ALONE[0] + ALONE[1] - kept, ALONE[0] + CONTINUATION, ALONE[1] + CONTINUATION]
    assert sum_along_ways(ALONE, CONTINUATION, ways_of(3))[:6].tolist() == np.array(expected).tolist()
    assert sum_along_ways(ALONE, CONTINUATION, ways_of(3))[6].tolist() == (ALONE.sum(axis=0) - 2 * kept).tolist()
    assert sum_along_ways(np.array([2.0, 5.0]), 4.0, ways_of(2)).tolist() == [2, 5, 6]


@pytest.mark.parametrize("problem_type", [None, MULTI_LABEL])
@given(
    seed=st.integers(0, 2**16),
    tried=st.lists(policies, min_size=1, max_size=4),
    blend=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_policies_of_any_steps_route_as_a_cascade_that_runs_one_input(problem_type, seed, tried, blend):
    logits, router_logits, lengths = made_up(seed)
    answers = recorded(logits, router_logits, lengths, blend=blend, problem_type=problem_type)
    tried = [replace(policy, blend=blend) for policy in tried]
    routed = answers.route(tried)
    for index, policy in enumerate(tried):
        one = routed[index]
        for row in range(INPUTS):
            steps, said, cost = run_alone(policy, logits[:, row], router_logits[row], int(lengths[row]), problem_type)
            assert (one.start[row], one.answered_by[row]) == (steps[0], steps[-1])
            assert routed.answered_by[index, row] == steps[-1]
            assert way_taken(policy, NAMES, steps[0], steps[-1]) == tuple(steps)
            if problem_type is None:
                assert one.answer[row] == said.argmax()
            else:
                assert answers.label_sets[one.answer[row]].tolist() == (said > 0).tolist()
            assert one.score[row] == confidence(said[None], problem_type)[0]
            assert one.cost[row] == one.spent[row] == pytest.approx(cost)


def test_two_steps_change_who_answers():
    """Toy texts of which each sub-network answers some, so that nothing above holds for want of cases."""
    texts = ["good good", "bad bad bad", "good bad", "odd", "good", "odd good"]
    steps = [CountedWords(), TinyTable(), TinyTable().sure]
    logits = np.stack([step(texts) for step in steps])
    batch = (np.arange(6), logits, np.zeros((6, 3), np.float32))
    answers = record_answers([batch], NAMES, np.full(6, 2), COEFFICIENTS)
    routed = answers.route([RoutingPolicy(0.0, {"words": 0.8, "table": 0.75}, start="words")])[0]
    assert routed.answered_by.tolist() == [0, 0, 2, 1, 0, 0]
    assert routed.start.tolist() == [0] * 6


def test_labels_split_answers_into_lost_and_gained():
    logits, router_logits, lengths = made_up(1)
    answers = recorded(logits, router_logits, lengths, blend=0.4, labels=np.arange(INPUTS) % 4)
    tried = [RoutingPolicy(0.0, {"words": 0.9, "table": 0.9}, 0.4, start="words"), RoutingPolicy(start="table")]
    routed = answers.route(tried)
    full = logits[-1].argmax(-1)
    for index in range(2):
        for row, label in enumerate(np.arange(INPUTS) % 4):
            said = routed.answer[index, row]
            assert routed.disagrees[index, row] == (said != full[row])
            assert routed.right[index, row] == (said == label)
            assert routed.lost[index, row] == (said != label == full[row])
            assert routed.gained[index, row] == (full[row] != label == said)
    assert all(values.any() for values in (routed.disagrees, routed.lost, routed.gained))
    for network in range(3):
        powers = np.exp(logits[network].astype(float))
        shares = powers / powers.sum(-1, keepdims=True)
        expected = shares[np.arange(INPUTS), np.arange(INPUTS) % 4].tolist()
        assert answers.label_scores[:, network].tolist() == pytest.approx(expected, abs=1e-6)
    # What escalates is blended by 0.4 with the answer before it. It is worth what the later answer is, and 1 more or
    # less where the two together are right or wrong.
    seen = set()
    for (column, way), (row, label) in itertools.product(enumerate(ways_of(3)), enumerate(np.arange(INPUTS) % 4)):
        answer = own = logits[way[0], row].astype(float)
        for network in way[1:]:
            own = logits[network, row].astype(float)
            answer = blended(own, answer, 0.4)
        changed = int(answer.argmax() == label) - int(own.argmax() == label)
        seen.add((changed, len(way) > 1))
        expected = float(softmax(own)[label]) + changed
        assert answers.way_label_scores[row, column] == pytest.approx(expected, abs=1e-5)
    assert seen >= {(0, False), (0, True), (-1, True)}
    assert np.isin(routed.label_score, answers.way_label_scores).all()
    unlabelled = replace(answers, labels=None).route(tried)
    assert not any(values.any() for values in (unlabelled.right, unlabelled.lost, unlabelled.gained))
    of_sets = replace(answers, way_label_scores=None).route(tried)
    assert np.array_equal(of_sets.label_score, of_sets.right)


def test_without_the_blend_answers_are_those_of_a_record_without_it():
    logits, router_logits, lengths = made_up(2)
    labels = np.arange(INPUTS) % 4
    plain, mixed = (recorded(logits, router_logits, lengths, blend=blend, labels=labels) for blend in (0.0, 0.6))
    assert not np.array_equal(plain.way_predictions, mixed.way_predictions)
    unblended = mixed.unblended()
    assert np.array_equal(plain.way_predictions, unblended.way_predictions)
    assert np.array_equal(plain.scores, unblended.scores)
    assert np.array_equal(plain.way_label_scores, unblended.way_label_scores)
    assert (plain.blend, unblended.blend) == (0.0, 0.0)
    policy = RoutingPolicy(0.0, {"words": 0.9, "table": 0.8}, start="words")
    assert np.array_equal(plain.route([policy]).score, unblended.route([policy]).score)


def test_some_of_the_inputs_are_routed_as_among_all():
    logits, router_logits, lengths = made_up(3)
    answers = recorded(logits, router_logits, lengths, labels=np.zeros(INPUTS, int))
    rows = np.array([7, 2, 2])
    policy = RoutingPolicy(0.5, {"words": 0.9, "table": 0.6})
    part = answers.take(rows)
    assert len(part) == 3
    for name in ("start", "answered_by", "answer", "score", "cost", "lost", "label_score"):
        expected = getattr(answers.route([policy])[0], name)[rows]
        assert np.array_equal(getattr(part.route([policy])[0], name), expected)
    assert np.array_equal(part.label_scores, answers.label_scores[rows])


def test_sets_of_labels_are_numbered_alike_in_all_batches():
    logits, router_logits, lengths = made_up(4, labels=6)
    answers = recorded(logits, router_logits, lengths, problem_type=MULTI_LABEL)
    assert len({tuple(labels) for labels in answers.label_sets.tolist()}) == len(answers.label_sets)
    assert (answers.label_sets[answers.predictions.T] == (logits > 0)).all()
    labels = (logits[1] > 0).astype(float)
    assert answers.truth(labels).tolist() == answers.predictions[:, 1].tolist()
    known = answers.label_sets.astype(int).tolist()
    unknown = next(list(labels) for labels in np.ndindex(*[2] * 6) if list(labels) not in known)
    assert answers.truth([unknown] * INPUTS).tolist() == [-1] * INPUTS


def test_a_record_does_not_grow_with_the_number_of_classes():
    def size(labels):
        logits, router_logits, lengths = made_up(5, labels=labels)
        answers = recorded(logits, router_logits, lengths, labels=np.zeros(INPUTS, int))
        values = [getattr(answers, name) for name in answers.__slots__]
        arrays = [*answers.way_scores.values(), *(value for value in values if isinstance(value, np.ndarray))]
        return sum(array.nbytes for array in arrays)

    assert size(2) == size(1000)


def test_nothing_spends_more_than_the_most():
    logits, router_logits, lengths = made_up(6)
    answers = recorded(logits, router_logits, lengths)
    everywhere = answers.route([RoutingPolicy(0.0, {"words": 1.0, "table": 1.0}, start="words")])
    assert everywhere.cost.max() <= answers.most_spent == pytest.approx(answers.way_costs.max())
    longer = recorded(logits, router_logits, lengths, max_length=100)
    assert longer.most_spent == pytest.approx(sum(cost_of(i, 100, continued=i > 0) for i in range(3)))


def test_a_policy_of_sub_networks_that_there_are_not_is_refused():
    answers = recorded(*made_up(7))
    for policy in (RoutingPolicy(start="narrow"), RoutingPolicy(0.0, {"narrow": 0.5})):
        with pytest.raises(InputError, match="narrow: the network has words, table, full"):
            answers.route([RoutingPolicy(), policy])


def test_a_policy_of_a_signal_that_was_not_recorded_is_refused():
    logits, router_logits, lengths = made_up(7)
    answers = record_answers([(np.arange(INPUTS), logits, router_logits)], NAMES, lengths, COEFFICIENTS)
    with pytest.raises(InputError, match="signal margin: was not recorded; only probability was"):
        answers.route([RoutingPolicy(0.0, 0.5, signal="margin")])


def test_the_curve_of_several_thresholds_moves_them_together():
    answers = recorded(*made_up(8))
    policy = RoutingPolicy(0.0, {"words": 0.9, "table": 0.6}, start="words")
    configured, *others = curve_policies(answers, policy)
    assert configured == policy
    assert all(len(set(other.escalation_threshold.values())) == 1 for other in others)
    costs = answers.route(others).cost.sum(axis=1)
    assert all(low <= high for low, high in pairwise(costs))
    assert answers.route(others).answered_by[0].tolist() == [0] * INPUTS
    assert answers.route(others).answered_by[-1].tolist() == [2] * INPUTS
