"""Cascades of any number of steps, beside a loop over inputs one by one; and policies that check themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.toys import CountedWords, TinyTable, run_cascade
from sharcs_runtime import InputError, RoutingPolicy
from sharcs_runtime.cascade import Cascade
from sharcs_runtime.scores import confidence

NAMES = ["words", "table", "full"]
thresholds = st.one_of(
    st.none(),
    st.floats(0, 1),
    st.dictionaries(st.sampled_from(NAMES[:2]), st.floats(0, 1), min_size=1),
)


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def one_by_one(answers, policy, start):
    """Follow one input through the steps: answers ``[steps, labels]``; its classes' probabilities and last step."""
    index, shares, steps = start, softmax(answers[start]), [start]
    while True:
        limit = policy.escalation_threshold
        if isinstance(limit, dict):
            limit = limit.get(NAMES[index])
        if index == 2 or limit is None or not np.float32(shares.max()) < np.float32(limit):
            return shares, steps
        named = policy.escalation_threshold
        later = [i for i in range(index + 1, 2) if isinstance(named, dict) and NAMES[i] in named]
        index = later[0] if later else 2
        shares = (1 - policy.blend) * softmax(answers[index]) + policy.blend * shares
        steps.append(index)


@given(
    seed=st.integers(0, 2**16),
    limit=thresholds,
    blend=st.sampled_from([0.0, 0.3, 0.7]),
    start=st.sampled_from([*NAMES, "router"]),
)
def test_a_cascade_decides_as_a_loop_over_inputs_does(seed, limit, blend, start):
    draw = np.random.default_rng(seed)
    answers = (2 * draw.standard_normal((3, 9, 4))).astype(np.float32)
    policy = RoutingPolicy(0.0, limit, blend, start)
    starts = draw.integers(0, 3, 9) if start == "router" else np.full(9, NAMES.index(start))
    cascade = Cascade(policy, NAMES, 9)
    cascade.begin(np.arange(9), starts)
    while pending := cascade.pending():
        for index, rows in pending.items():
            cascade.put(index, rows, answers[index, rows])
    for row in range(9):
        shares, steps = one_by_one(answers[:, row].astype(np.float64), policy, int(starts[row]))
        if any(
            abs(shares.max() - value) < 1e-5
            for value in np.ravel(list(limit.values()) if isinstance(limit, dict) else limit or 2)
        ):
            continue  # on the edge
        assert (cascade.start[row], cascade.answered_by[row]) == (steps[0], steps[-1])
        np.testing.assert_allclose(softmax(cascade.logits[row].astype(np.float64)), shares, atol=1e-5)
        assert cascade.scores[row] == pytest.approx(shares.max(), abs=1e-5)


def test_three_steps_of_toy_sub_networks_one_of_them_without_layers():
    """A count of words, a table and a network: each answers only what escalates to it."""
    texts = ["good good", "bad bad bad", "good bad", "odd", "good", "odd good"]
    words, table = CountedWords(), TinyTable()
    policy = RoutingPolicy(0.0, {"words": 0.8, "table": 0.75}, start="words")
    cascade, seen = run_cascade(policy, {"words": words, "table": table, "full": table.sure}, texts)
    assert cascade.answered_by.tolist() == [0, 0, 2, 1, 0, 0]
    assert seen == {"words": texts, "table": ["good bad", "odd"], "full": ["good bad"]}


def test_the_margin_is_the_lead_over_the_next_class():
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.5, 0.5, 1e-9]], np.float32))
    assert confidence(logits, signal="margin") == pytest.approx([0.3, 0.4, 0.0], abs=1e-5)
    labels = np.log(np.array([[9.0, 1 / 3]], np.float32))  # probabilities of 0.9 and 0.25
    assert confidence(labels, "multi_label_classification", "margin") == pytest.approx([0.5], abs=1e-5)


def test_a_cascade_escalates_by_the_signal_of_its_policy():
    logits = np.log(np.array([[0.6, 0.39, 0.01], [0.5, 0.25, 0.25]], np.float32))
    for signal, escalates in (("probability", [False, True]), ("margin", [True, False])):
        limit = {"probability": 0.55, "margin": 0.22}[signal]
        cascade = Cascade(RoutingPolicy(0.0, limit, start="words", signal=signal), NAMES, 2)
        cascade.begin(np.arange(2), 0)
        assert cascade.put(0, np.arange(2), logits).tolist() == escalates


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cost_weight": float("nan")}, "cost_weight nan: has to be a finite number"),
        ({"cost_weight": True}, "cost_weight"),
        ({"blend": 1.5}, "blend 1.5: has to be from 0 to 1"),
        ({"escalation_threshold": 2.0}, "escalation_threshold 2.0"),
        ({"escalation_threshold": {"width-25": -1}}, "escalation_threshold -1"),
        ({"start": 3}, "start 3"),
        ({"signal": "mood"}, "signal 'mood': there is none; choose probability or margin"),
        ({"speed": 3}, "unknown setting; known are cost_weight"),
    ],
)
def test_a_policy_refuses_what_is_out_of_range(setting, message):
    with pytest.raises(InputError, match=message):
        RoutingPolicy.from_dict(setting)


def test_a_policy_refuses_names_that_the_network_lacks():
    RoutingPolicy(0.0, {"words": 0.5}, start="table").check_names(NAMES)
    for policy in (RoutingPolicy(start="narrow"), RoutingPolicy(0.0, {"narrow": 0.5})):
        with pytest.raises(InputError, match="narrow: the network has words, table, full"):
            policy.check_names(NAMES)


@given(limit=thresholds, start=st.sampled_from([*NAMES, "router"]))
def test_policies_survive_plain_values(limit, start):
    policy = RoutingPolicy(0.5, limit, 0.25, start)
    assert RoutingPolicy.from_dict(policy.to_dict()) == policy
    assert len({policy, RoutingPolicy.from_dict(policy.to_dict())}) == 1
