"""The judge's scores on made-up answers, for which the right numbers are known by hand or by brute force."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import matthews_corrcoef

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from judge import answers as files
from judge import settings
from judge.answers import Answers
from judge.curves import Curve, Mix, at_budget, curve_of, ladder, pick, reference_curve
from judge.families import ByShare, Cascade, Exits, Routed, Static, View, scores
from judge.front import Chain, chains
from judge.intervals import Interval, draws, holm, mean_over_sets, seed_variance, set_interval
from judge.scoring import OURS, PICK, PICK_BY_PROBABILITY, PairScores, Scores, counted, matthews


def logits_of(classes, sure):
    """Logits of two classes that name ``classes`` with these odds."""
    sign = np.where(np.array(classes) == 1, 1.0, -1.0)
    return np.stack([-sign * np.array(sure) / 2, sign * np.array(sure) / 2], axis=-1).astype(np.float32)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


# Four rows, all of class 1. The full network is wrong on the last; the first step is right on two, and sure of three.
LABELS = np.array([1, 1, 1, 1])
FIRST = logits_of([1, 1, 0, 0], [4.0, 3.0, 2.0, 0.5])
FULL = logits_of([1, 1, 1, 0], [5.0, 5.0, 5.0, 1.0])
FULL_COST = np.full(4, 100.0)


def two_steps(**signals):
    answers = Answers(np.stack([FIRST, FULL]), np.stack([np.full(4, 10.0), np.full(4, 105.0)]), signals)
    return View(answers, Answers(FULL[None], FULL_COST[None]), LABELS)


def test_an_input_leaves_at_the_first_exit_that_is_sure():
    view = two_steps()
    confidence = scores(view.answers, "confidence")[0]
    threshold = (confidence[1] + confidence[2]) / 2  # rows 0 and 1 leave
    cost, right = Exits("confidence").apply(view, threshold)
    assert cost.tolist() == [10, 10, 105, 105]
    assert right.tolist() == [1, 1, 1, 0]


def test_patience_counts_how_often_the_same_class_was_named():
    logits = np.stack([logits_of(named, [1, 1]) for named in ([1, 0], [1, 1], [1, 1], [0, 1])])
    answers = Answers(logits, np.zeros((4, 2)))
    assert scores(answers, "patience").T.tolist() == [[0, 1, 2, 0], [0, 0, 1, 2]]


def test_entropy_and_confidence_are_those_of_the_probabilities():
    answers = Answers(np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32), np.zeros((2, 5)))
    for step, row in itertools.product(range(2), range(5)):
        shares = softmax(answers.logits[step, row].astype(float))
        assert scores(answers, "confidence")[step, row] == pytest.approx(shares.max(), abs=1e-6)
        assert scores(answers, "entropy")[step, row] == pytest.approx((shares * np.log(shares)).sum(), abs=1e-5)


def test_a_cascade_pays_for_both_and_averages_their_probabilities():
    view = two_steps()
    cost, right = Cascade().apply(view, (0.9, 0.5))
    for row in range(4):
        first, full = softmax(FIRST[row]), softmax(FULL[row])
        if first.max() < 0.9:
            assert cost[row] == 110
            assert right[row] == (np.argmax(first + full) == LABELS[row])
        else:
            assert cost[row] == 10
            assert right[row] == (first.argmax() == LABELS[row])
    assert cost.tolist() == [10, 10, 110, 110]


def routed_view():
    router = np.array([[2.0, 2.0, -2.0, 2.0], [0.0, 0.0, 2.0, 0.0]], np.float32)
    return two_steps(router=router, continuation=np.full((1, 4), 0.8, np.float32))


def test_ours_starts_where_the_router_says_and_continues_when_unsure():
    view = routed_view()
    cost, right = Routed(blend=0.3).apply(view, ("router", 0.0, 0.8))
    # Row 2 starts full; row 3 is unsure (0.62), so it continues.
    assert cost.tolist() == pytest.approx([10, 10, 105, 90])
    mixed = 0.7 * softmax(FULL[3]) + 0.3 * softmax(FIRST[3])
    assert right.tolist() == [1, 1, 1, float(mixed.argmax() == 1)]
    cost, _ = Routed().apply(view, ("narrow", 0.0, -1e9))
    assert cost.tolist() == [10] * 4


def test_a_heavy_cost_starts_every_input_narrow():
    cost, _ = Routed().apply(routed_view(), ("router", 1e6, -1e9))
    assert cost.tolist() == [10] * 4


def test_a_share_by_chance_is_the_mean_over_draws_and_the_oracle_takes_what_gains():
    view = routed_view()
    cost, right = ByShare(blend=0.0).apply(view, 0.25)
    assert cost.tolist() == pytest.approx([10 + 0.25 * 100] * 4)
    assert right.tolist() == pytest.approx([1, 1, 0.25, 0])
    cost, right = ByShare(oracle=True, blend=0.0).apply(view, 1.0)
    assert cost.tolist() == pytest.approx([10, 10, 110, 10])
    assert right.tolist() == [1, 1, 1, 0]


def test_the_oracle_sends_no_row_on_that_would_be_spoilt():
    first, full = logits_of([1, 0], [2.0, 2.0]), logits_of([0, 1], [2.0, 2.0])
    view = View(
        Answers(first[None], np.full((1, 2), 10.0)), Answers(full[None], np.full((1, 2), 100.0)), np.array([1, 1])
    )
    cost, right = ByShare(oracle=True, blend=0.0).apply(view, 1.0)
    assert cost.tolist() == pytest.approx([10, 110])
    assert right.tolist() == [1, 1]


def test_a_chain_goes_on_while_it_is_unsure_and_averages_what_is_at_hand():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, 40, 4)).astype(np.float32)
    labels = generator.integers(0, 4, 40)
    costs = np.array([1.0, 12.0, 100.0])
    view = View(
        Answers(logits[:2], np.repeat(costs[:2, None], 40, 1)), Answers(logits[2:], np.full((1, 40), 100.0)), labels
    )
    cost, right = Chain((0, 1)).apply(view, (0.3, (0.5, 0.6)))
    ends = set()
    for row in range(40):
        at_hand, spent = softmax(logits[0, row].astype(np.float64)), 1.0
        for step, limit in ((1, 0.5), (2, 0.6)):
            if at_hand.max() >= limit:
                break
            at_hand = 0.7 * softmax(logits[step, row].astype(np.float64)) + 0.3 * at_hand
            spent += costs[step]
        ends.add(spent)
        assert cost[row] == pytest.approx(spent)
        assert right[row] == (at_hand.argmax() == labels[row])
    assert ends == {1.0, 13.0, 113.0}
    cost, _ = Chain((0, 1), to_full=False).apply(view, (0.0, (1e9,)))
    assert set(cost) == {13.0}


def test_the_settings_of_a_chain_go_from_the_first_step_alone_to_everything():
    generator = np.random.default_rng(1)
    view = View(
        Answers(generator.normal(size=(3, 50, 3)).astype(np.float32), np.repeat([[1.0], [4.0], [12.0]], 50, 1)),
        Answers(generator.normal(size=(1, 50, 3)).astype(np.float32), np.full((1, 50), 100.0)),
        generator.integers(0, 3, 50),
    )
    for chain in chains():
        costs = [chain.apply(view, setting)[0].mean() for setting in chain.settings(view)]
        of_steps = [(1.0, 4.0, 12.0)[step] for step in chain.steps]
        last = sum(of_steps) + 100 * chain.to_full
        assert min(costs) == pytest.approx(of_steps[0])
        assert max(costs) == pytest.approx(last)


# Curves and budgets


def curve(costs, accuracies, test_costs=None, rows=10):
    right = np.repeat(np.array(accuracies, np.float32)[:, None], rows, axis=1)
    return Curve(np.array(costs), np.array(accuracies), np.array(test_costs or costs), right)


def test_the_ladder_is_what_no_mixture_beats():
    generator = np.random.default_rng(0)
    for _ in range(50):
        made = curve(generator.random(12).tolist(), generator.random(12).round(1).tolist())
        for budget in (0.1, 0.3, 0.5, 0.9):
            best = None  # by brute force: every setting and every mixture of two
            for a, b in itertools.product(range(12), repeat=2):
                low, high = made.held_cost[[a, b]]
                share = 0.0 if high <= low else min(1.0, (budget - low) / (high - low))
                if low > budget or share < 0:
                    continue
                value = made.held_accuracy[a] * (1 - share) + made.held_accuracy[b] * share
                best = value if best is None else max(best, value)
            mix = at_budget(made, budget)
            assert (mix is None) == (best is None)
            if mix is not None:
                cost, accuracy = mix.held(made)
                assert cost <= budget + 1e-9
                assert accuracy == pytest.approx(best)


def test_a_mixture_stands_at_the_cost_that_it_has_on_test_rows():
    made = curve([0.1, 0.5], [0.8, 0.9], [0.2, 0.7])
    mix = at_budget(made, 0.3)
    assert mix == Mix((0, 1), (pytest.approx(0.5), pytest.approx(0.5)))
    assert mix.cost(made) == pytest.approx(0.45)
    assert mix.right(made) == pytest.approx(np.full(10, 0.85))


def test_a_static_network_just_above_the_budget_is_mixed_and_not_dropped():
    """The judge of before counted a width of 0.5003 as its narrower one at a budget of 0.5."""
    made = curve([0.25, 0.5003], [0.8, 0.9])
    cost, accuracy = at_budget(made, 0.5).held(made)
    assert cost == pytest.approx(0.5)
    assert accuracy == pytest.approx(0.9, abs=2e-4)


def test_test_rows_decide_nothing():
    view = two_steps()
    other = View(view.answers, view.reference, 1 - LABELS)
    ladders = [ladder(curve_of(Exits("entropy"), view, test)) for test in (view, other)]
    assert ladders[0] == ladders[1]


def test_the_pick_is_the_best_on_held_out_rows_and_the_cheaper_of_two_equal_ones():
    curves = {"dear": curve([0.2, 1], [0.8, 0.9]), "cheap": curve([0.1, 1], [0.8, 0.8]), "none": curve([0.9], [1.0])}
    assert pick(curves, 0.05) is None
    assert pick(curves, 0.2) == "cheap"
    assert pick(curves, 0.5) == "dear"
    assert pick(curves, 0.95) == "none"


# Intervals


def test_the_seeds_variance_is_that_of_their_mean_without_bias():
    values = np.array([1.0, 2.0, 4.0])
    assert seed_variance(values) == pytest.approx(values.var(ddof=1) / 3)
    assert seed_variance(values) == pytest.approx(values.var() / 3 * 3 / 2)
    assert seed_variance(values[:1]) == 0


def test_an_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    weights = draws(400)
    covered = 0
    for _ in range(300):
        rows = generator.choice([-1.0, 0.0, 1.0], size=(1, 400), p=[0.1, 0.75, 0.15])
        interval, _ = set_interval(rows, weights)
        covered += interval.low <= 5.0 <= interval.high
    assert 0.91 < covered / 300 < 0.985


def test_the_bootstrap_has_the_textbook_error():
    rows = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], size=(1, 3000), p=[0.1, 0.7, 0.2])
    interval, _ = set_interval(rows, draws(3000))
    assert interval.error == pytest.approx(100 * rows.std() / np.sqrt(3000), rel=0.05)
    assert interval.value == pytest.approx(100 * rows.mean())


def test_a_mean_over_sets_adds_their_variances():
    generator = np.random.default_rng(3)
    per_set = []
    for rows in (500, 1500):
        made = generator.choice([0.0, 1.0], size=(3, rows))
        interval, replicates = set_interval(made, draws(rows, rows))
        per_set.append((interval, (100 * made.mean(1), replicates)))
    mean = mean_over_sets([values for _, values in per_set])
    assert mean.value == pytest.approx(np.mean([interval.value for interval, _ in per_set]))
    assert mean.error == pytest.approx(np.sqrt(sum(i.error**2 for i, _ in per_set)) / 2, rel=0.05)


def test_a_set_that_gains_much_counts_half_a_point():
    rows = np.zeros((2, 100))
    rows[:, :3] = -1  # three points gained
    seeds, replicates = counted(rows, draws(100))
    assert seeds.mean() == pytest.approx(-0.5)
    assert replicates.min() >= -0.5
    seeds, _ = counted(-rows, draws(100))
    assert seeds.mean() == pytest.approx(3)


def test_holm_is_stricter_than_each_set_alone():
    def of(p, sign=1):
        return Interval.of(sign * norm.isf(p / 2), 1.0)

    verdicts = holm({"a": of(0.001), "b": of(0.02, -1), "c": of(0.03), "d": of(0.9)})
    # 0.001 < 0.05 / 4; 0.02 > 0.05 / 3, and nothing after it counts.
    assert verdicts == {"a": "ahead", "b": "level", "c": "level", "d": "level"}
    assert holm({"a": of(0.001), "b": of(0.02, -1)}) == {"a": "ahead", "b": "behind"}


# From files to scores


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two sets of made-up answers: a peer that loses 10 points at no cost, and ours, which loses nothing."""
    monkeypatch.setattr(PairScores, "parts", {"held_out": np.ones(40, np.int64), "test": np.ones(40, np.int64)})
    full = logits_of([1] * 40, [3.0] * 40)
    wrong = logits_of([0] * 4 + [1] * 36, [0.1] * 4 + [2.0] * 36)
    router = np.stack([np.ones(40), np.zeros(40)]).astype(np.float32)

    def both(logits, cost, **signals):
        made = Answers(np.array(logits), np.array(cost, float)[:, None] * np.full(40, 100.0), signals)
        return {"held_out": made, "test": made}

    for name in ("one", "two"):
        folder = tmp_path / name / "0"
        files.save(folder / "reference.npz", both([full], [1.0]), {})
        files.save(folder / "tfidf.npz", both([wrong], [0.01]), {})
        ours = both([full] * 3, [0.02, 0.05, 1.0], router=router, continuation=np.full((1, 40), 0.9, np.float32))
        files.save(folder / "ours.npz", ours, {})
    monkeypatch.setattr(settings, "FOLDER", tmp_path.parent)
    return Scores.of(settings.Study(tmp_path.name, {}), ["one", "two", "three"], ("reference", "ours"))


def test_points_lost_are_read_from_the_files(study):
    assert study.of_all("tfidf", 0.02)["interval"].value == pytest.approx(10, abs=0.2)
    assert study.of_all(OURS, 0.02)["interval"].value == 0
    assert study.of_all(OURS, 0.01) is None  # nothing is as cheap
    # Its four errors are the least sure, so that a cascade mends them at a tenth of the cost.
    assert study.of_all("tfidf → full", 0.15)["interval"].value == pytest.approx(0, abs=1e-9)
    picked = study.of_set("one", PICK, 0.15)
    assert picked["ways"] == ["tfidf → full"]
    assert picked["cost"] == pytest.approx(0.11, abs=1e-3)


def test_a_later_study_has_the_peers_of_the_one_that_it_names(study, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "FOLDER", tmp_path.parent)
    later = settings.Study("later", {"peers": tmp_path.name})
    wrong = np.array([logits_of([0] * 40, [1.0] * 40)] * 3)
    made = Answers(wrong, np.array([0.02, 0.05, 1.0])[:, None] * np.full(40, 100.0))
    assert later.answers_of("one", 0, OURS) == tmp_path / "one" / "0" / "ours.npz"
    own = tmp_path.parent / "later" / "one" / "0" / "ours.npz"
    files.save(own, {"held_out": made, "test": made}, {"set": "one", "seed": 0, "method": "ours"})
    assert later.answers_of("one", 0, OURS) == own
    assert later.answers_of("one", 0, "new") == own.with_name("new.npz")
    found = Scores.of(later, ["one", "two"], ("reference", "ours"))
    assert list(found.pairs) == ["one", "two"]
    assert found.of_set("one", "tfidf", 0.02)["interval"] == study.of_set("one", "tfidf", 0.02)["interval"]
    assert found.of_set("one", OURS, 0.02)["interval"].value == 100
    again = settings.Study("again", {"peers": tmp_path.name, "again": ["one/ours"]})
    assert again.answers_of("one", 0, OURS) == tmp_path.parent / "again" / "one" / "0" / "ours.npz"
    assert again.answers_of("two", 0, OURS) == tmp_path / "two" / "0" / "ours.npz"


def test_a_pair_that_lacks_a_method_is_left_out(study, tmp_path):
    (tmp_path / "two" / "0" / "tfidf.npz").unlink()
    of = settings.Study(tmp_path.name, {})
    assert list(Scores.of(of, ["one", "two"], ("reference", "tfidf")).pairs) == ["one"]
    assert list(Scores.of(of, ["one", "two"], ("reference",)).pairs) == ["one", "two"]


def test_a_study_may_choose_ours_by_probability_and_peers_both_ways(study, tmp_path):
    """An answer that is right but barely, and one that is wrong but barely: counts and probabilities differ."""
    barely = np.array([logits_of([1] * 22 + [0] * 18, [0.1] * 40)])  # 22 right, each with 52%
    sure = np.array([logits_of([1] * 20 + [0] * 20, [9.0] * 20 + [0.1] * 20)])  # 20 right, with 100%
    answers = Answers(np.concatenate([barely, sure, sure]), np.array([0.02, 0.02, 1.0])[:, None] * np.full(40, 100.0))
    folder = tmp_path / "one" / "0"
    files.save(folder / "ours.npz", {"held_out": answers, "test": answers}, {})
    chance = (4 / (1 + math.exp(0.1)) + 36 / (1 + math.exp(-2))) / 40
    right = {}
    for soft in (False, True):
        pair = PairScores("one", "0", settings.Study(tmp_path.name, {"ours_by_probability": soft}))
        curve = pair.curves["ours, static"]
        right[soft] = at_budget(curve, 0.02).right(curve).sum()
        # Peers are counted either way, and stand beside it as ours is chosen.
        assert 0.9 in pair.curves["tfidf"].held_accuracy
        assert pair.peers_by_probability["tfidf"].held_accuracy[0] == pytest.approx(chance, abs=1e-3)
        assert set(pair.peers_by_probability) == {"tfidf", "tfidf → full"}
        assert pair.lost(PICK_BY_PROBABILITY, 0.015)["way"] in pair.peers_by_probability
    assert (right[False], right[True]) == (22, 20)


def test_ours_against_a_peer_is_the_difference_of_what_both_lose(study):
    lead = study.of_all(OURS, 0.02, "tfidf")["interval"]
    assert lead.value == pytest.approx(10 - 10 * 0.01 / 0.99, abs=0.2)
    assert lead.low > 0


def test_what_ours_is_compared_with_is_no_peer(study):
    assert set(study.pairs["one"][0].curves) == {
        OURS, "ours, random", "ours, oracle", "ours, static", "tfidf", "tfidf → full",
    }  # fmt: skip
    assert study.of_set("one", PICK, 0.02)["ways"] == ["tfidf → full"] or study.of_set("one", PICK, 0.02)["ways"] == [
        "tfidf"
    ]


def test_answers_come_back_as_they_were_written(tmp_path):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 7, 3)).astype(np.float32) * 4
    made = Answers(
        logits, generator.random((2, 7)) * 1e9, {"router": generator.normal(size=(2, 7)).astype(np.float32)}
    )
    files.save(tmp_path / "a.npz", {"test": made}, {"seed": 3})
    back, record = files.read(tmp_path / "a.npz")
    assert record == {"seed": 3}
    centred = logits - logits.mean(-1, keepdims=True)
    assert np.abs(back["test"].logits - centred).max() <= 0.5 / files.STEP + 1e-6
    np.testing.assert_allclose(back["test"].cost, made.cost, rtol=1e-6)
    np.testing.assert_allclose(back["test"].signals["router"], made.signals["router"], rtol=1e-3, atol=1e-3)


def test_the_correlation_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels, answers = generator.integers(0, 2, (2, 50))
    assert matthews(labels, labels == answers) == pytest.approx(matthews_corrcoef(labels, answers))
    assert matthews(labels, np.where(labels == 1, 1.0, 0.0)) == 0  # one class for all


def test_the_reference_stands_on_every_ladder():
    view = two_steps()
    made = reference_curve(view, view)
    assert made.held_cost.tolist() == [1.0]
    assert made.held_accuracy.tolist() == [0.75]
    assert curve_of(Static(0), view, view).held_cost.tolist() == [0.1]
