"""What is learned from held-out rows, and what ours is without each of its ideas."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from judge import ablations, learned, settings
from judge import answers as files
from judge.ablations import AblationScores, variants
from judge.answers import Answers
from judge.families import Static, View
from judge.front import Chain, chains
from judge.scoring import OURS, Scores
from sharcs_runtime.scores import softmax


def view_of(seed, rows=120, classes=3, by_probability=False):
    """Three networks that say more of the truth the later they come, and one that says most."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    truth = np.eye(classes)[labels]
    logits = [generator.normal(size=(rows, classes)) + gain * truth for gain in (0.5, 1.0, 2.0, 4.0)]
    logits = np.array(logits, np.float32)
    costs = np.repeat([[1.0], [4.0], [12.0], [100.0]], rows, axis=1)
    return View(Answers(logits[:3], costs[:3]), Answers(logits[3:], costs[3:]), labels, by_probability)


def test_what_is_said_of_a_row_was_learned_without_it():
    seen = []

    def learn(rows):
        seen.append(set(rows.tolist()))
        return lambda left: np.array([sorted(set(range(23)) - set(rows.tolist())).index(row) for row in left], float)

    said = learned.out_of_part(learn, 23)
    assert sorted(len(rows) for rows in seen) == [18, 18, 18, 19, 19]
    for rows in seen:
        left = sorted(set(range(23)) - rows)
        assert said[left].tolist() == list(range(len(left)))  # each by the one that had not seen it


def test_a_line_is_fitted_and_decays():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(4000, 2)) * [1.0, 5.0] + [3.0, -1.0]
    wanted = 0.5 * inputs[:, 0] - 0.1 * inputs[:, 1] + 2
    found = learned.ridge(inputs, wanted)(inputs)
    assert np.abs(found - wanted).max() < 0.01
    few = learned.ridge(inputs[:4], wanted[:4])(inputs[:4])
    assert np.ptp(few) < np.ptp(wanted[:4])


def test_features_tell_sureness_and_agreement():
    sure, unsure = np.array([[5.0, 0.0]], np.float32), np.array([[0.0, 0.1]], np.float32)
    found = learned.features([sure, unsure, unsure])[0]
    assert found[0] == pytest.approx(5.0, abs=1e-4)  # log odds
    assert found[1] == pytest.approx(2 * softmax(sure[0]).max() - 1)
    assert found[3] == pytest.approx(0.1, abs=1e-4)
    assert found[9:].tolist() == [0.0, 1.0]


def test_a_learned_score_sends_on_what_gains():
    """A network that is sure of one class but wrong about it, which its own confidence cannot tell."""
    held_out, test = view_of(0, 600), view_of(1, 600)
    for view in (held_out, test):
        view.answers.logits[2, :, 0] += 6  # mostly names the first class, and surely
    chain = learned.LearnedChain((2,), learns_from=held_out)
    mine = chain.sure(test, 0.0, chain.at_hand(test, 0.0))[0]
    plain = Chain((2,)).sure(test, 0.0, Chain((2,)).at_hand(test, 0.0))[0]
    gain = test.right(test.reference.logits[0]).astype(float) - test.right(test.answers.logits[2])
    assert np.corrcoef(-mine, gain)[0, 1] > 0.2
    assert np.corrcoef(-mine, gain)[0, 1] > np.corrcoef(-plain, gain)[0, 1]
    for setting in chain.settings(held_out)[::40]:
        cost, _ = chain.apply(held_out, setting)
        assert set(cost) <= {12.0, 112.0}


def test_held_out_rows_are_judged_by_what_the_others_taught():
    held_out = view_of(2)
    chain = learned.LearnedChain((0, 1), learns_from=held_out)
    every = chain.sure(held_out, 0.3, chain.at_hand(held_out, 0.3))
    copy = replace(held_out, answers=Answers(held_out.answers.logits, held_out.answers.cost))  # not known as theirs
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(every[:2], chain.sure(copy, 0.3, [])[:2], strict=True))
    stacked = learned.StackedChain((0, 1), blends=(0.0,), learns_from=held_out)
    for place, (a, b) in enumerate(zip(stacked.at_hand(held_out, 0.0), stacked.at_hand(copy, 0.0), strict=True)):
        assert (np.abs(a - b).max() > 1e-3) == (place > 0)


def test_weights_are_the_likeliest():
    view = view_of(3, 400)
    logs = np.log(softmax(np.stack([view.answers.logits[0], view.answers.logits[2]]).astype(float)))
    found = learned.fitted_weights(logs, view.labels)

    def loss(weights):
        return -np.log(softmax(learned.stacked(logs, np.array(weights)))[np.arange(400), view.labels]).mean()

    steps = np.linspace(0, 2, 41)
    best = min(itertools.product(steps, steps), key=loss)
    assert np.abs(found - best).max() < 0.1
    assert loss(found) <= loss(best) + 1e-3  # a little decay


def test_variants_use_what_their_names_say():
    found = variants(view_of(0))
    of_steps = {
        name: {step for each in families for step in getattr(each, "steps", None) or (each.step,)}
        for name, families in found.items()
    }
    assert of_steps["without recurrent"] == {0, 2}
    assert of_steps["lexical alone in front"] == {0}
    assert of_steps["learned deferral"] == {0, 1, 2}
    assert {chain.blends for chain in found["never averaged"] if isinstance(chain, Chain)} == {(0.0,)}
    assert {chain.signal for chain in found["deferral by entropy"] if isinstance(chain, Chain)} == {"entropy"}
    for name, families in found.items():
        assert any(isinstance(each, Static) for each in families), name
        assert any(getattr(each, "to_full", False) for each in families), name
    assert len([each for each in found["never averaged"] if isinstance(each, Chain)]) == len(chains())


def test_ablations_stand_against_ours(tmp_path, monkeypatch):
    held_out, test = view_of(4), view_of(5)
    parts = {"held_out": held_out, "test": test}
    monkeypatch.setattr(AblationScores, "parts", {part: view.labels for part, view in parts.items()})
    monkeypatch.setattr(settings, "FOLDER", tmp_path.parent)
    folder = tmp_path / "one" / "0"
    files.save(folder / "ours.npz", {part: view.answers for part, view in parts.items()}, {})
    files.save(folder / "reference.npz", {part: view.reference for part, view in parts.items()}, {})
    study = settings.Study(tmp_path.name, {"ours_by_probability": True})
    content = ablations.ablations(Scores.of(study, ["one"], (OURS, "reference"), AblationScores))
    assert content["sets"] == {"one": ["0"]}
    assert set(content["worse"]) == {ablations.COUNTED, *variants(held_out)}
    # Without the compact network, what is best at a fifth of the cost is out of reach.
    assert content["worse"]["without compact"]["0.15"]["value"] > 2
    assert content["worse"]["lexical alone in front"]["0.15"]["value"] > 2
    assert content["by_set"]["one"]["never averaged"]["0.15"] is not None
