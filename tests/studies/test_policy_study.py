"""The study of how a policy is chosen: its rules against the package's, and outcomes by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.three_networks import three_networks

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import policy_study
from judge import answers
from judge.data import tokenised
from sharcs.calibration.policies import all_policies
from sharcs.calibration.promise import MOST_LOST, cheapest_without_loss
from sharcs_runtime.policy import RoutingPolicy
from sharcs_runtime.ways import ways_of


def answers_of(seed):
    return three_networks(seed, rows=120, known=(1.0, 1.5, 2.0))


def costs_of(answers, policies):
    return answers.route(policies).cost.mean(axis=1)


def test_networks_of_the_judge_stand_in_front(tmp_path):
    rows = tokenised(["a fine film", "dull", "so so", "not a film"], None, np.array([1, 0, 0, 1]), 32)
    logits = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
    for name, of in (("ours", logits[:3]), ("reference", logits[3:])):
        answers.save(tmp_path / f"{name}.npz", {"held_out": answers.Answers(of, np.ones(of.shape[:2]))}, {})
    every = policy_study.all_answers(tmp_path, rows)
    assert (every.names, every.front) == (("lexical", "recurrent", "compact", "full"), 3)
    assert {policy.start for policy in all_policies(every)} == set(every.names)
    assert np.array_equal(every.predictions, logits.argmax(-1).T)
    assert (np.diff(every.costs, axis=1) > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_one_of_the_rules_is_the_packages(seed):
    every = answers_of(seed)
    mine = policy_study.chosen_policy(every, "label_score", MOST_LOST)
    theirs = cheapest_without_loss(every)
    each = [every if policy.blend else every.unblended() for policy in (mine, theirs)]
    assert costs_of(each[0], [mine])[0] == pytest.approx(costs_of(each[1], [theirs])[0])


def test_within_a_budget_none_is_better():
    every = answers_of(5)
    chosen = policy_study.chosen_policy(every, "right", budget=0.3)
    best = 0.0
    for each in (every, every.unblended()):
        for policy in all_policies(each):
            routed = each.route([policy])[0]
            if routed.cost.mean() <= 0.3 * every.full_costs.mean():
                best = max(best, routed.right.mean())
    each = every if chosen.blend else every.unblended()
    assert each.route([chosen])[0].right.mean() == best > 0


def test_an_outcome_is_what_other_rows_lose_and_cost():
    every = answers_of(6)
    policy = RoutingPolicy(start="recurrent")
    lost, cost = policy_study.outcome(every, policy)
    right = (every.predictions == every.labels[:, None]).mean(0)
    assert lost == pytest.approx(100 * (right[2] - right[0]))
    assert cost == pytest.approx(0.01)
    blended = RoutingPolicy(start="recurrent", escalation_threshold={"recurrent": 1.0, "compact": 0.0}, blend=0.3)
    plain = RoutingPolicy(start="recurrent", escalation_threshold={"recurrent": 1.0, "compact": 0.0})
    column = ways_of(3).index((0, 1))
    for policy, record in ((blended, every), (plain, every.unblended())):
        expected = right[2] - (record.way_predictions[:, column] == every.labels).mean()
        assert policy_study.outcome(every, policy)[0] == pytest.approx(100 * expected)


def test_the_tables_show_each_rule_in_its_column():
    import friendly_tables

    def entry(rule, lost, **setting):
        return {"rows": 50, "rule": rule, "lost": lost, "lost_in_nine_of_ten": 2 * lost, "cost": lost / 10, **setting}

    limits = [entry("right", 1.0, limit=1.0), entry("right", 2.0, limit=MOST_LOST)]
    limits += [entry("label_score", 3.0, limit=1.0), entry("label_score", 4.0, limit=MOST_LOST)]
    budgets = [entry(rule, lost, budget=of) for rule, of, lost in (
        ("label_score", 0.1, 8.0), ("right", 0.1, 7.0), ("right", 0.05, 5.0), ("label_score", 0.05, 6.0),
    )]  # fmt: skip
    content = {"pairs": {"sick, seed 0": [*limits, *budgets]}}
    assert friendly_tables.policy(content).splitlines()[-1] == (
        "| sick, seed 0 | 50 | 1.0 (2.0) at 10% | 2.0 (4.0) at 20% | 3.0 (6.0) at 30% | 4.0 (8.0) at 40% |"
    )
    lines = friendly_tables.within_budgets(content).splitlines()
    assert lines[0].endswith("| 5%, counted | 5%, by probability | 10%, counted | 10%, by probability |")
    assert lines[-1] == "| sick, seed 0 | 50 | 5.0 | 6.0 | 7.0 | 8.0 |"
