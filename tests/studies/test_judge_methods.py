"""The judge's methods: losses against slow re-implementations, costs against PyTorch's counter, frozen settings."""

import copy
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from common import tokenizer
from judge import cost, exits, lexical, students, training
from judge.data import Parts, Rows, tokenised
from judge.dynabert import DynaBert, distillation_loss
from judge.joint_exits import JointExits, exit_weights, joint_loss
from judge.narrow import as_dataset, routed
from judge.networks import Network, answers_of, mean_of_tokens, over
from judge.settings import SettingsError, Study
from judge.training import Fit, Schedule, batches
from sharcs.data.made import TextMaker
from sharcs.training.runs import front_rows

TEXTS = ["a fine film", "a dull plot, and long", "fine", "what an awful end of a book that was fine", "dull", "so so"]


def rows_of(texts, labels, pairs=None):
    return tokenised(texts, pairs, np.array(labels, np.int64), 32)


@pytest.fixture(scope="module")
def parts():
    train = rows_of(TEXTS * 3, [1, 0, 1, 0, 0, 1] * 3)
    held = rows_of(TEXTS[:4], [1, 0, 1, 0])
    return Parts(train, held, held, ["bad", "good"])


@pytest.fixture(scope="module", params=["cls", "mean"])
def network(request):
    torch.manual_seed(0)
    return Network(2, request.param).train(False)


# Rows


def test_texts_are_cut_where_their_tokens_end():
    rows = tokenised(["one two three four"], ["five six"], np.array([0]), 7)
    assert len(rows.ids[0]) == 7
    assert rows.texts == ["one two"]
    assert rows.pairs == ["five six"]
    assert rows.whole_texts == ["one two three four five six"]


def test_batches_hold_every_row_once_and_depend_on_seed_and_epoch():
    rows = rows_of(TEXTS * 20, [0, 1, 0, 1, 0, 1] * 20)
    made = batches(rows, 0, 0)
    assert sorted(itertools.chain.from_iterable(made)) == list(range(120))
    assert made == batches(rows, 0, 0)
    assert made != batches(rows, 0, 1)
    assert made != batches(rows, 1, 0)


@pytest.mark.parametrize("second", [None, [text[::-1] for text in TEXTS]])
def test_peers_learn_from_the_same_made_texts_as_ours(second):
    rows = rows_of(TEXTS, [0] * 6, second)
    owner = SimpleNamespace(train_dataset=as_dataset(rows), unlabelled_dataset=None, processing_class=tokenizer())
    ours = front_rows(owner, SimpleNamespace(made_texts=30, seed=1))
    peers = rows.joined(Rows.of_tokens(TextMaker(as_dataset(rows), tokenizer()).rows_made(30, 1)))
    assert peers.ids == [row["input_ids"] for row in ours]
    assert peers.types == [row["token_type_ids"] for row in ours]
    assert (peers.labels[6:] == -1).all()
    assert len({tuple(ids) for ids in peers.ids}) > 15


# Networks


def test_a_network_is_the_plain_model_with_cls_and_a_mean_of_its_tokens_otherwise(network, parts):
    inputs = parts.train.batch([0, 1, 3])
    with torch.inference_mode():
        plain = network.model(**inputs, output_hidden_states=True)
        logits = network(inputs)
        if network.readout == "cls":
            torch.testing.assert_close(logits, plain.logits, atol=1e-5, rtol=1e-5)
            return
        for row, ids in enumerate([parts.train.ids[i] for i in (0, 1, 3)]):
            mean = plain.hidden_states[-1][row, : len(ids)].mean(0)
            pooled = network.model.bert.pooler(mean[None, None])[0]
            torch.testing.assert_close(logits[row], network.model.classifier(pooled), atol=1e-5, rtol=1e-5)


def test_rows_are_answered_as_one_by_one(network, parts):
    together = over(parts.train, network, batch=5)
    for row in (0, 3, 7):
        np.testing.assert_allclose(together[row], over(parts.train.take([row]), network)[0], atol=1e-5)


def counted(run):
    """Count the FLOPs of a call with PyTorch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def test_our_full_network_is_the_reference(network, parts):
    model = routed(network, widths=(0.25, 1.0)).train(False)
    found = over(parts.held_out, lambda inputs: model(**inputs, width=1.0).logits)
    np.testing.assert_allclose(found, over(parts.held_out, network), atol=1e-5)
    plain = model.cost_coefficients()[-1].numpy() @ np.array([1.0, 17.0, 289.0])
    assert plain == network.flops(np.array([17]))[0]


def test_costs_are_those_of_the_counter(network):
    inputs = {name: torch.ones(1, 17, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    inputs["token_type_ids"] = torch.zeros(1, 17, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH):
        assert counted(lambda: network(inputs)) == network.flops(np.array([17]))[0]
        branch = exits.Branch(network, "mean")
        hidden = torch.zeros(1, 17, 384)
        expected = cost.branch(384, exits.BRANCH, 2, np.array([17]))[0]
        assert counted(lambda: branch(hidden, inputs)) == expected
        thin = DynaBert.__new__(DynaBert)
        torch.nn.Module.__init__(thin)
        thin.network, thin.config = network, network.config
        expected = 6 * cost.layer(network.config, np.array([17]), 0.25) + cost.head(network.config, 2)
        assert counted(lambda: thin.run(inputs, 0.25)) == expected[0]


def test_a_gru_costs_its_matrix_products():
    # Each step of each direction: three gates of units × (inputs + units), two FLOPs each.
    assert cost.gru(8, 4, 3, np.array([5]))[0] == 2 * 5 * 2 * (3 * 4 * (8 + 4)) + 2 * (4 * 4) * 3


# Losses


def test_exits_weights_rise_to_their_share_of_the_cost(network):
    assert exit_weights(network, 0.0) == [0.01] * 5 + [1.0]
    assert exit_weights(network, 2.0) == pytest.approx([(0.01 + i / 6) / 2 for i in range(1, 6)] + [1.0])
    assert exit_weights(network, 9.0) == pytest.approx([i / 6 for i in range(1, 6)] + [1.0])


def test_the_joint_loss_weighs_every_exit_and_teaches_the_certainty():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 2, generator=generator)
    certainty = torch.randn(2, 4, generator=generator)
    labels = torch.tensor([0, 1, 1, 0])
    weights = [0.1, 0.5, 1.0]
    expected = 0.0
    for index, weight in enumerate(weights):
        expected += weight * np.mean([-math.log(logits[index, r].softmax(-1)[labels[r]]) for r in range(4)])
    slow = []
    for index, row in itertools.product(range(2), range(4)):
        sure = float(torch.sigmoid(certainty[index, row]))
        slow.append(-math.log(sure if logits[index, row].argmax() == labels[row] else 1 - sure))
    assert float(joint_loss(logits, certainty, labels, weights)) == pytest.approx(expected + np.mean(slow), rel=1e-5)


def test_the_certainty_does_not_change_the_network(network, parts):
    model = JointExits(network, "mean")
    _, certainty = model(parts.train.batch([0, 1]))
    certainty.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.network.parameters())
    assert model.certainty.weight.grad.any()


def test_a_student_learns_from_the_teacher_and_half_from_labels():
    generator = torch.Generator().manual_seed(1)
    logits, teacher = torch.randn(2, 3, 4, generator=generator)
    labels = torch.tensor([2, -1, 0])
    rows = []
    for row in range(3):
        mine = (logits[row] / 2).softmax(-1).double()
        theirs = (teacher[row] / 2).softmax(-1).double()
        soft = 4 * float((theirs * (theirs / mine).log()).sum())
        if labels[row] < 0:
            rows.append(soft)
        else:
            rows.append(soft / 2 - math.log(logits[row].softmax(-1)[labels[row]]) / 2)
    assert float(students.student_loss(logits, teacher, labels)) == pytest.approx(np.mean(rows), rel=1e-4)


def test_dynaberts_distance_counts_real_tokens_alone():
    generator = torch.Generator().manual_seed(2)
    logits, teacher = torch.randn(2, 2, 3, generator=generator)
    mine, theirs = torch.randn(2, 2, 4, 5, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    soft = -(teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    squares = [float(((mine[r, t] - theirs[r, t]) ** 2).mean()) for r, t in ((0, 0), (0, 1), (0, 2), (1, 0))]
    loss = distillation_loss(logits, [mine], teacher, [theirs], mask)
    assert float(loss) == pytest.approx(float(soft) + 0.1 * np.mean(squares), rel=1e-5)


def test_dynabert_keeps_the_network_and_cuts_the_least_important(network, parts):
    model = DynaBert(network, parts, seed=0).train(False)
    inputs = parts.train.batch([0, 1, 3])
    with torch.inference_mode():
        torch.testing.assert_close(model.run(inputs, 1.0)[0], network(inputs), atol=1e-4, rtol=1e-4)
        # The same with the other heads and neurons switched off.
        off = copy.deepcopy(model.network)
        for layer in off.layers:
            layer.attention.output.dense.weight[:, 3 * 32 :] = 0
            layer.output.dense.weight[:, 384:] = 0
        torch.testing.assert_close(model.run(inputs, 0.25)[0], off(inputs), atol=1e-4, rtol=1e-4)


# Small networks


@pytest.mark.parametrize("units", [0, 3])
@pytest.mark.parametrize("pairs", [None, ["well", "dull again", "x", "no", "yes it is", "a b c"]])
def test_token_models_read_rows_as_one_by_one(units, pairs):
    rows = rows_of(TEXTS, [0] * 6, pairs)
    vectors = np.random.default_rng(0).normal(size=(30522, 4)).astype(np.float32)
    trained = np.unique(np.concatenate([np.array(ids) for ids in rows.ids[:3]]))
    torch.manual_seed(0)
    model = students.TokenModel(vectors, trained, 2, pairs=pairs is not None, units=units).train(False)
    together = over(rows, model)
    for row in range(6):
        np.testing.assert_allclose(together[row], over(rows.take([row]), model)[0], atol=1e-5)
    if units or pairs:
        return
    mean = vectors[rows.ids[5]].mean(0)
    expected = model.out(torch.from_numpy(mean)).detach().numpy()
    np.testing.assert_allclose(together[5], expected, atol=1e-5)


def test_vectors_of_tokens_that_occur_learn_and_the_others_stay():
    vectors = np.zeros((30522, 4), np.float32)
    model = students.TokenModel(vectors, np.array([101, 102, 2986]), 2, pairs=False)
    rows = rows_of(["fine dull"], [0])
    model(rows.batch([0]))[:, 0].sum().backward()
    assert model.table.grad.abs().sum(1).bool().tolist() == [2986 in rows.ids[0] or i < 2 for i in range(3)]


def test_linear_heads_read_the_means_of_the_layers(network, parts):
    found = exits.vectors(network, parts.train, "mean")
    with torch.inference_mode():
        states = network.states(parts.train.batch([3]))
        for layer, hidden in enumerate(states):
            mean = mean_of_tokens(hidden, torch.ones(1, hidden.shape[1]))[0].numpy()
            np.testing.assert_allclose(found[layer, 3], mean, atol=1e-5)
    answers, record = exits.linear_heads(network, parts)
    assert answers["test"].logits.shape == (7, 4, 2)
    assert set(record["strengths"]) <= set(exits.STRENGTHS)
    np.testing.assert_allclose(answers["test"].logits[-1], answers_of(network, parts.test).logits[0], atol=1e-5)
    per_exit = 2 * 384 * 2
    layer = cost.layer(network.config, parts.test.lengths)
    np.testing.assert_allclose(answers["test"].cost[2], 2 * layer + 3 * per_exit)
    np.testing.assert_allclose(answers["test"].cost[-1], network.flops(parts.test.lengths) + 6 * per_exit)


def test_a_pairs_words_are_compared():
    same = rows_of(["a fine film", "a dull plot"], [0, 1], ["a fine film", "nothing alike"])
    features = lexical.Lexical(same).features(same).toarray()
    size = (features.shape[1] - 5) // 2
    assert not features[0, :size].any()  # equal texts differ in nothing
    assert features[1, :size].any()
    assert features[0, -5:].tolist() == [1, 1, 1, 0, 0]


# Training


class Line(torch.nn.Module):
    """A weight of each of three numbers."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))


def fit(state=None, epochs=5, patience=9, stop_at=None):
    rows = rows_of(TEXTS * 20, [0] * 120)
    data = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    model, steps = Line(), []

    def loss(indices, passed):
        steps.append(passed)
        if stop_at is not None and len(steps) == stop_at:
            raise KeyboardInterrupt
        noise = 0.1 * torch.randn(len(indices))  # what dropout would draw
        return ((data[indices] @ model.weight - data[indices].sum(1) + noise) ** 2).mean()

    def score():
        return -float((model.weight.detach() - 1).abs().sum())

    fitted = Fit(model, rows, loss, score, seed=3, schedule=Schedule(0.05, epochs, patience), state=state)
    return model, fitted, steps


def test_an_interrupted_training_goes_on_to_the_same_result(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_STATES", -1)
    model, whole, _ = fit()
    record = whole.run()
    _, stopped, _ = fit(tmp_path / "state", stop_at=10)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again, resumed, steps = fit(tmp_path / "state")
    assert resumed.run()["scores"] == record["scores"]
    assert torch.equal(again.weight, model.weight)
    assert len(steps) == 4 * 5 - 9
    assert not (tmp_path / "state").exists()


def test_a_state_is_written_where_epochs_are_shorter_than_the_time_between_two(tmp_path, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(training, "SECONDS_BETWEEN_STATES", 6)  # an epoch has four steps
    _, stopped, _ = fit(tmp_path / "state", stop_at=10)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert (tmp_path / "state").exists()


def test_the_best_weights_outlive_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_STATES", -1)
    values = [0.0, 0.9, 0.1, 0.2, 0.3, 0.4]  # the best is that of the first epoch, before the interruption

    def with_scores(fitted, left):
        scores = iter(left)
        fitted.score = lambda: next(scores)
        return fitted

    model, whole, _ = fit()
    with_scores(whole, values).run()
    _, stopped, _ = fit(tmp_path / "state", stop_at=7)
    with pytest.raises(KeyboardInterrupt):
        with_scores(stopped, values).run()
    again, resumed, _ = fit(tmp_path / "state")
    with_scores(resumed, values[2:]).run()
    assert torch.equal(again.weight, model.weight)


def test_training_ends_when_held_out_rows_stop_rising():
    values = iter([0.1, 0.5, 0.6, 0.4, 0.3, 0.55])
    _, fitted, _ = fit(epochs=12, patience=2)
    fitted.score = lambda: next(values)
    record = fitted.run()
    # The start, four epochs of which the last two are no better, and one that ends.
    assert record["scores"] == [0.5, 0.6, 0.4, 0.3, 0.55]


def test_the_best_weights_stay():
    model, fitted, _ = fit(epochs=4)
    values = iter([0.0, 0.5, 0.9, 0.1, 0.2])
    kept = []

    def score():
        kept.append(model.weight.detach().clone())
        return next(values)

    fitted.score = score
    fitted.run()
    assert torch.equal(model.weight, kept[2])


# Settings


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        names = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", *names, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"study": "first", "rate": 1}))
    git("add", "settings.json")
    git("commit", "-m", "settings")
    return file


def test_test_rows_are_refused_unless_settings_are_committed_and_unchanged(repository, monkeypatch):
    monkeypatch.setattr("judge.settings.FOLDER", repository.parent / "results")
    monkeypatch.setattr("judge.settings.FILE", repository)
    study = Study.read(repository)
    repository.write_text(json.dumps({"study": "first", "rate": 2}))
    with pytest.raises(SettingsError, match="not committed"):
        Study.read(repository).freeze()
    repository.write_text(json.dumps({"study": "first", "rate": 1}))
    study.freeze()
    study.freeze()
    repository.write_text(json.dumps({"study": "first", "rate": 2}))
    with pytest.raises(SettingsError, match=r"other settings under the name first \(rate\)"):
        Study.read(repository).freeze()
    monkeypatch.setattr(students, "TEMPERATURE", 3.0)
    with pytest.raises(SettingsError, match=r"students\.TEMPERATURE"):
        study.freeze()


def test_a_later_study_takes_what_its_file_leaves_out_and_has_to_be_committed_too(repository, monkeypatch):
    monkeypatch.setattr("judge.settings.FOLDER", repository.parent / "results")
    monkeypatch.setattr("judge.settings.FILE", repository)
    later = repository.with_name("later.json")
    later.write_text(json.dumps({"study": "second", "peers": "first"}))
    study = Study.read(later)
    assert study.settings == {"study": "second", "peers": "first", "rate": 1}
    with pytest.raises(SettingsError, match=r"later\.json: is not committed"):
        study.freeze()


def test_rows_keep_together_when_taken_and_joined():
    rows = rows_of(TEXTS, [0, 1, 0, 1, 0, 1])
    both = rows.take([4, 1]).joined(rows.take([0]))
    assert both.texts == [TEXTS[4], TEXTS[1], TEXTS[0]]
    assert both.ids == [rows.ids[4], rows.ids[1], rows.ids[0]]
    assert both.labels.tolist() == [0, 1, 0]
    assert isinstance(both, Rows)
