"""Problem types and class weights, against Hugging Face's and torch's own losses and sums written out."""

import math
from statistics import fmean, pvariance

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from helpers.tiny import (
    RECIPE_WEIGHTS,
    TASKS,
    Spy,
    arguments,
    collate,
    logged_losses,
    rows_of,
    task_model,
    task_rows,
    tiny_encoder,
    toy_rows,
    trainer_for,
)
from sharcs import DriftMonitor
from sharcs.calibration.calibrate import calibrate
from sharcs.calibration.choice import Constraint
from sharcs.config import RoutingPolicy
from sharcs.errors import InputError
from sharcs.evaluation.accuracy import accuracy_report
from sharcs.evaluation.widths import run_all_widths
from sharcs.inference.folder import TrainedModel
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.report.content import build_report
from sharcs.tasks.classification import Task, task_of
from sharcs.training.hardness import narrowest_sure
from sharcs.training.subnetworks import RATES

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
OTHERS = [task for task in TASKS if task != "one label"]
WEIGHTS = {"one label": [0.5, 3.0], "labels": [0.5, 3.0, 1.5]}
CASES = [(task, None) for task in TASKS] + list(WEIGHTS.items())
ROWS = 24
PLUS = {"recipe": "sharcs+", "num_train_epochs": 1, "subnetwork_epochs": 2}
PAPER = {"num_train_epochs": 3, "window": 1, "bands": {0.25: (0.4, 1.0), 1.0: (0.0, 0.4)}}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(logits):
    powers = [math.exp(x - max(logits)) for x in logits]
    return [power / sum(powers) for power in powers]


def as_list(value):
    return value if isinstance(value, list) else [value]


def slow_loss(problem_type, logits, label, variances=None):
    """Loss of one sample, in plain numbers."""
    if problem_type == SINGLE:
        return -math.log(softmax(logits)[label])
    if problem_type == MULTI:
        return -fmean(math.log(sigmoid(x) if y else sigmoid(-x)) for x, y in zip(logits, label, strict=True))
    return fmean((x - y) ** 2 / v for x, y, v in zip(logits, as_list(label), variances, strict=True))


def slow_variances(rows):
    return [pvariance(column) for column in zip(*(as_list(row["labels"]) for row in rows), strict=True)]


def torch_loss(task, logits, labels, weights, variances):
    """Task loss of a narrow width by torch's own classes."""
    weights = None if weights is None else torch.tensor(weights)
    if TASKS[task][0] == SINGLE:
        return torch.nn.CrossEntropyLoss(weight=weights)(logits, labels).item()
    if TASKS[task][0] == MULTI:
        return torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels).item()
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    return fmean(slow_loss(REGRESSION, row, label, variances) for row, label in rows)


def slow_divergence(problem_type, student, teacher, variances):
    """Divergence of one sample's answers, in plain numbers."""
    if problem_type == REGRESSION:
        return slow_loss(REGRESSION, student, teacher, variances)
    if problem_type == SINGLE:
        return sum(p * math.log(p / q) for p, q in zip(softmax(teacher), softmax(student), strict=True))
    pairs = [(sigmoid(t), sigmoid(s)) for t, s in zip(teacher, student, strict=True)]
    return fmean(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in pairs)


def slow_router_loss(logits, targets):
    """Binary cross-entropy, in plain numbers."""
    scores = [(sigmoid(x), y) for row in zip(logits, targets, strict=True) for x, y in zip(*row, strict=True)]
    return -fmean(math.log(p if y else 1 - p) for p, y in scores)


# Losses and confidences


@pytest.mark.parametrize("recipe", ["sharcs+", "paper"])
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_at_full_width_is_the_plain_models_bit_for_bit(tmp_path, task, recipe):
    problem_type, labels = TASKS[task]
    rows, model = task_rows(task, ROWS), task_model(task, weights=RECIPE_WEIGHTS[recipe])
    plain = tiny_encoder(labels=labels, problem_type=problem_type).train()
    trainer = trainer_for(tmp_path, model, rows, **(PLUS if recipe == "sharcs+" else PAPER))
    batch = collate(rows[:8])
    torch.manual_seed(3)
    expected = plain(**batch).loss
    torch.manual_seed(3)
    assert torch.equal(trainer.compute_loss(model.train(), batch | {"sample_id": torch.arange(8)}), expected)


logits_and_labels = st.lists(
    st.tuples(*[st.floats(-30, 30, width=32)] * 3, *[st.floats(0, 1, width=32)] * 3), min_size=1, max_size=4
)


@settings(deadline=None)
@given(logits_and_labels, st.sampled_from([SINGLE, MULTI, REGRESSION]), st.integers(1, 2))
def test_confidence_is_exp_of_minus_the_samples_loss(rows, problem_type, widths):
    logits, labels, variances = [row[:3] for row in rows], [list(row[3:]) for row in rows], [0.3, 2.0, 30.0]
    if problem_type == SINGLE:
        labels = [int(2 * row[0]) for row in labels]
    elif problem_type == MULTI:
        labels = [[float(x > 0.5) for x in row] for row in labels]
    task = Task(problem_type, variance=torch.tensor(variances) if problem_type == REGRESSION else None)
    every = torch.tensor(logits).expand(widths, -1, -1).requires_grad_()
    found = task.confidence(every, torch.tensor(labels))
    assert found.shape == (widths, len(rows))
    assert not found.requires_grad
    expected = [math.exp(-slow_loss(problem_type, row, y, variances)) for row, y in zip(logits, labels, strict=True)]
    for of_width in found.tolist():
        assert of_width == pytest.approx(expected, abs=1e-5)


def test_confidence_of_several_labels_is_the_geometric_mean_of_the_probabilities_of_the_truth():
    logits = torch.tensor([[math.log(3), -math.log(4)]])  # probabilities 3/4 and 1/5
    task = Task(MULTI)
    assert task.confidence(logits, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(math.sqrt(3 / 4 * 4 / 5))
    assert task.confidence(logits, torch.tensor([[0.0, 1.0]])).item() == pytest.approx(math.sqrt(1 / 4 * 1 / 5))


def test_confidence_of_one_label_is_the_very_probability():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 3, 1, 2, 2])
    assert torch.equal(Task(SINGLE).confidence(logits, labels), logits.softmax(-1)[range(5), labels])


def test_the_unit_of_a_regressions_labels_does_not_matter():
    rows = task_rows("numbers", ROWS)
    answers = torch.randn(ROWS, 2)
    found = []
    for unit in (1.0, 1000.0):
        scaled = [row | {"labels": [unit * value + 7 for value in row["labels"]]} for row in rows]
        task = task_of(task_model("numbers").config, scaled)
        labels = collate(scaled)["labels"]
        logits = unit * answers + 7
        found.append((task.confidence(logits, labels), task.distillation_loss(logits[None], logits.flip(0), labels)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


def test_a_number_is_sure_within_half_a_standard_deviation():
    """Who always answers the mean is sure of nobody who is further away, so the router has something to tell."""
    task = Task(REGRESSION, variance=torch.tensor([4.0]))
    off = torch.tensor([[0.0], [0.94], [0.95], [2.0]])  # 0.47 and 0.475 standard deviations
    narrow = task.confidence(off, torch.zeros(4))
    labels = narrowest_sure(torch.stack([narrow, torch.ones(4)], dim=1))
    assert labels.argmax(dim=1).tolist() == [0, 0, 1, 1]
    assert narrow[3].item() == pytest.approx(math.exp(-1))


# Whole runs


@pytest.mark.parametrize(("task", "weights"), CASES)
def test_what_sharcs_plus_minimises(tmp_path, monkeypatch, task, weights):
    """The full network's loss, then task loss and divergence of each narrow width and the router's loss."""
    problem_type, (rows, widths) = TASKS[task][0], (task_rows(task, ROWS), (0.25, 0.5, 1.0))
    model, passes = task_model(task, widths=widths, weights="own"), []
    if problem_type == MULTI:
        model.encoder.classifier.weight.data.mul_(4)  # so that some answers are sure
    monkeypatch.setitem(RATES, "narrow", 5)  # so that numbers are

    def note(model, _args, kwargs, output):
        if model.training or kwargs.get("widths") == "narrow":
            passes.append((kwargs["input_ids"], kwargs["labels"], output))

    model.register_forward_hook(note, with_kwargs=True)
    more = {"subnetwork_epochs": 4, "learning_rate": 1e-2, "class_weights": weights, "router_loss_weight": 0.5}
    trainer = trainer_for(tmp_path, model, rows, **PLUS | more)
    trainer.train()
    with torch.no_grad():
        teacher = model.eval()(**collate(rows), width=1.0).logits.double().tolist()
    expected, variances, targets = [], slow_variances(rows), []
    for ids, labels, output in passes:
        if output.width_logits is None:
            loss = torch_loss(task, output.logits, labels, weights, [1.0] * len(variances))
            expected.append(output.loss.item() if weights is None else loss)
            assert expected[-1] == pytest.approx(loss, rel=1e-5)
            continue
        total, sure = 0.0, []
        full = [teacher[row] for row in rows_of(ids)]
        for of_width in output.width_logits:
            total += torch_loss(task, of_width, labels, weights, variances)
            pairs = zip(of_width.double().tolist(), full, strict=True)
            total += fmean(slow_divergence(problem_type, student, t, variances) for student, t in pairs)
            answers = zip(of_width.double().tolist(), labels.tolist(), strict=True)
            sure.append([math.exp(-slow_loss(problem_type, *answer, variances)) >= 0.8 for answer in answers])
        first = [[*of_sample, True].index(True) for of_sample in zip(*sure, strict=True)]
        targets += first
        one_hot = [[float(index == chosen) for index in range(3)] for chosen in first]
        expected.append(total + 0.5 * slow_router_loss(output.router_logits.double().tolist(), one_hot))
    assert len(set(targets)) > 1
    assert logged_losses(trainer) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("task", "weights"), CASES)
def test_what_the_papers_recipe_minimises(tmp_path, task, weights):
    """The plain task loss of the batch's width and the router's loss on labels that follow from the confidences."""
    problem_type, rows = TASKS[task][0], task_rows(task, ROWS)
    trainer = trainer_for(tmp_path, task_model(task), rows, **PAPER, class_weights=weights)
    spy, variances = Spy().watch(trainer), slow_variances(rows)
    trainer.train()
    expected, hardness, confidences = [], None, {}
    for epoch in range(3):
        of_epoch = {}
        for one in spy.in_epoch(epoch):
            loss = torch_loss(task, one.logits, one.labels, weights, [1.0] * len(variances))
            if hardness is not None:
                assert all(hardness[row][one.width_index] for row in one.rows)
                loss += slow_router_loss(one.router_logits.double().tolist(), [hardness[row] for row in one.rows])
            expected.append(loss)
            for row, logits in zip(one.rows, one.logits.double().tolist(), strict=True):
                of_epoch[row] = math.exp(-slow_loss(problem_type, logits, rows[row]["labels"], variances))
        confidences = of_epoch
        hardness = {row: [float(value >= 0.4), float(value < 0.4)] for row, value in confidences.items()}
        assert spy.histories[epoch][:, 0].tolist() == pytest.approx([of_epoch[row] for row in range(ROWS)], abs=1e-5)
    assert {one.width_index for one in spy.passes} == {0, 1}
    assert spy.losses() == pytest.approx(expected, rel=1e-4)


def right(task, logits, labels):
    """Share of right answers, or of the labels' variance that a regression explains."""
    if TASKS[task][0] == MULTI:
        return ((logits > 0) == labels.bool()).all(dim=1).double().mean().item()
    labels = labels.reshape(logits.shape)
    return (1 - (logits - labels).square().mean(0) / labels.var(0, correction=0)).min().item()


@pytest.mark.parametrize(
    ("task", "recipe"),
    [
        ("labels", "sharcs+"),
        ("numbers", "paper"),
        pytest.param("labels", "paper", marks=pytest.mark.extended),
        pytest.param("numbers", "sharcs+", marks=pytest.mark.extended),
    ],
)
def test_other_problems_are_learnt(tmp_path, task, recipe):
    """One answer to all would be right for a third of the inputs, or explain nothing."""
    rows, model = task_rows(task, 96), task_model(task, weights=RECIPE_WEIGHTS[recipe])
    more = {"num_train_epochs": 12, "importance_samples": 16}
    if recipe == "sharcs+":
        more = PLUS | more | {"subnetwork_epochs": 8}
    else:
        more |= {"window": 2, "bands": {0.25: (0.5, 1.0), 1.0: (0.0, 0.7)}}
    trainer_for(tmp_path, model, rows, **more).train()
    batch = collate([row for number, row in enumerate(rows) if number % 4])  # the others are random
    labels, ways = batch.pop("labels"), [{}]
    if recipe == "sharcs+":  # the paper's trains each width on its inputs alone
        ways += [{"width": 0.25}, {"width": 1.0}]
    with torch.no_grad():
        answers = [model.eval()(**batch, **way).logits for way in ways]
    assert min(right(task, logits, labels) for logits in answers) > 0.8


@pytest.mark.parametrize("task", TASKS)
def test_the_policy_after_sharcs_plus_fits_the_problem_and_is_loaded_again(tmp_path, task):
    model = task_model(task, weights="own")
    trainer_for(tmp_path, model, task_rows(task, 8), **PLUS | {"subnetwork_epochs": 1}).train()
    policy = model.config.routing_policy
    # A regression has no confidence: the router's argmax.
    assert policy == (RoutingPolicy() if TASKS[task][0] == REGRESSION else RoutingPolicy(1.0, 0.9, 0.3))
    model.save_pretrained(tmp_path / "model")
    again = SharcsForSequenceClassification.from_pretrained(tmp_path / "model")
    assert (again.config.routing_policy, again.config.problem_type) == (policy, TASKS[task][0])


# What the labels say


@pytest.mark.parametrize(
    ("count", "label"), [(1, 0.5), (1, [0.5]), (2, 1), (3, 2), (3, [1.0, 0.0, 1.0])], ids=lambda value: str(value)
)
def test_an_unnamed_problem_is_what_transformers_makes_of_the_labels(tmp_path, count, label):
    rows = [row | {"labels": label} for row in toy_rows(8)]
    rows[1]["labels"] = [0.0] * count if isinstance(label, list) else type(label)(0)
    model, plain = task_model("one label"), tiny_encoder(labels=count)
    model.config.problem_type, model.config.num_labels = None, count
    plain(**collate(rows))
    trainer = trainer_for(tmp_path, model, rows)
    assert trainer.task.problem_type == plain.config.problem_type
    assert model.config.problem_type == model.encoder.config.problem_type == plain.config.problem_type


def test_the_variance_is_that_of_all_rows_of_each_output():
    rows = task_rows("numbers", ROWS)
    expected = pytest.approx(slow_variances(rows))
    for data in (rows, datasets.Dataset.from_list(rows), datasets.Dataset.from_list(rows).with_format("torch")):
        assert task_of(task_model("numbers").config, data).variance.tolist() == expected


@pytest.mark.parametrize("labels", [[0, 1, 2], [2, 0, 1, 0, 0, 2, 0, 0], [1] * 50 + [0] * 7 + [2]])
def test_balanced_weights_of_classes_are_scikit_learns(labels):
    config = task_model("labels").config  # of three
    config.problem_type = SINGLE
    weights = task_of(config, [{"labels": label} for label in labels], "balanced").class_weights
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


def test_balanced_weights_of_several_labels_are_negatives_over_positives():
    rows = task_rows("labels", ROWS)
    columns = list(zip(*(row["labels"] for row in rows), strict=True))
    found = task_of(task_model("labels").config, rows, "balanced").class_weights
    assert found.tolist() == pytest.approx([column.count(0.0) / column.count(1.0) for column in columns])


@pytest.mark.parametrize(
    ("task", "labels", "weights", "message"),
    [
        ("one label", None, [1.0], "class_weights: are 1, and the model has 2 labels"),
        ("labels", None, [1.0, 2.0], "class_weights: are 2, and the model has 3 labels"),
        ("number", None, [1.0], "class_weights: a regression has no classes"),
        ("one label", [0, 0, 0], "balanced", "no training row has the label 'LABEL_1'"),
        ("labels", [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], "balanced", "every training row has the label 'LABEL_0'"),
        ("labels", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "balanced", "no training row has the label 'LABEL_2'"),
        ("one label", [0, 2], "balanced", "row 2: its label is 2; it has to be from 0 to 1"),
        ("one label", [0.5, 1.0], "balanced", r"are float32 \[\]; single_label_classification takes a class index"),
        ("number", [2.5, 2.5, 2.5], None, "label 0 is 2.5 in all 3 rows"),
        ("numbers", [[1.0, 3.0], [2.0, 3.0]], None, "label 1 is 3 in all 2 rows"),
        ("number", [1.0, math.nan], None, "row 2: label 0 is nan; it has to be a finite number"),
        ("number", [1, 2], None, r"are int64 \[\]; regression takes single-precision floats"),
        ("number", [np.float64(1), np.float64(2)], None, "float64"),
        ("numbers", [1.0, 2.0], None, r"labels of shape \[\]; regression of this model takes \[2\]"),
        ("number", [[1.0, 2.0], [2.0, 3.0]], None, r"labels of shape \[2\]; regression of this model takes \[1\]"),
        ("labels", [[1, 0, 1]], None, r"are int64 \[3\]; multi_label_classification takes single-precision floats"),
        ("labels", [[1.0, 0.0]], None, r"of shape \[2\]; multi_label_classification of this model takes \[3\]"),
        ("labels", [[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]], None, "row 2: label 1 is 2; it has to be from 0 to 1"),
        ("labels", [[1.0, 0.0, 1.0], [0.0, 2.0]], None, r"row 2: .* \(float32 \[2\] after float32 \[3\]\)"),
        ("number", [1.0, None], None, "row 2: its labels are None"),
        ("number", [1.0, "2"], None, "row 2: its labels are '2'"),
    ],
)
def test_labels_and_weights_that_do_not_fit_are_refused(tmp_path, task, labels, weights, message):
    rows = task_rows(task, 8 if labels is None else len(labels))
    for row, label in zip(rows, labels or [], strict=labels is not None):
        row["labels"] = label
    with pytest.raises(InputError, match=message):
        trainer_for(tmp_path, task_model(task), rows, class_weights=weights)


@pytest.mark.parametrize(
    "weights", ["balance", 2.0, [1.0, 0.0], [1.0, -1.0], [math.nan, 1.0], [math.inf, 1.0], [True, 1], ["1", 2]]
)
def test_weights_that_are_none_are_refused(tmp_path, weights):
    with pytest.raises(InputError, match="class_weights"):
        arguments(tmp_path, class_weights=weights)


def test_rows_without_labels_are_refused(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "labels"} for row in toy_rows(8)]
    for data in (rows, datasets.Dataset.from_list(rows)):
        with pytest.raises(InputError, match="its rows have no labels"):
            trainer_for(tmp_path, task_model("number"), data)


@pytest.mark.parametrize(
    ("problem_type", "count", "message"),
    [("ranking", 2, "problem_type 'ranking': there is none"), (SINGLE, 1, "takes two classes or more")],
)
def test_problems_that_are_none_are_refused(tmp_path, problem_type, count, message):
    model = task_model("one label")
    model.config.problem_type, model.config.num_labels = problem_type, count
    with pytest.raises(InputError, match=message):
        trainer_for(tmp_path, model, toy_rows(8))


def test_a_regression_whose_policy_escalates_is_refused(tmp_path):
    model = task_model("number")
    model.config.policy = {"escalation_threshold": 0.5}
    with pytest.raises(InputError, match="a regression has no confidence"):
        trainer_for(tmp_path, model, task_rows("number", 8))


# Evaluation


def multi_label_model():
    """Build a model whose answers differ among widths, and that escalates half of them."""
    model = task_model("labels", widths=(0.25, 0.5, 1.0))
    with torch.no_grad():
        head = model.encoder.classifier
        head.bias.sub_(model.eval()(**collate(task_rows("labels", 40)), widths="all").width_logits.mean((0, 1)))
        head.weight.mul_(9)
        head.bias.mul_(9)
    model.config.policy = {"cost_weight": 9.0, "escalation_threshold": 0.6, "blend": 0.4}
    return model


def test_several_labels_are_right_if_all_are():
    model, rows = multi_label_model(), task_rows("labels", 40)
    labels = collate(rows)["labels"]
    outputs = run_all_widths(model, rows, collate, batch_size=8)
    report = accuracy_report(model, outputs, labels).to_dict()
    answers = {}
    for way in (0.25, 0.5, 1.0, None):
        answers[way] = []
        for row in rows:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row["input_ids"]]), width=way).logits[0].tolist()
            answers[way].append([float(sigmoid(x) > 0.5) for x in logits])
    truth = [row["labels"] for row in rows]
    share = {way: sum(a == b for a, b in zip(found, truth, strict=True)) / 40 for way, found in answers.items()}
    assert len({str(found) for found in answers.values()}) == 4
    assert [entry["accuracy"] for entry in report["widths"]] == pytest.approx([share[w] for w in (0.25, 0.5, 1.0)])
    assert report["routed"]["accuracy"] == pytest.approx(share[None])
    some = [any(answers[way][row] == truth[row] for way in (0.25, 0.5, 1.0)) for row in range(40)]
    assert report["oracle"]["accuracy"] == pytest.approx(sum(some) / 40)
    part = accuracy_report(model, outputs.take(np.arange(10, 20)), labels[10:20]).to_dict()
    assert part["full"]["accuracy"] == pytest.approx(fmean(answers[1.0][row] == truth[row] for row in range(10, 20)))


def test_scores_of_several_labels_are_those_that_the_policy_compares():
    model, rows = multi_label_model(), task_rows("labels", 40)
    outputs = run_all_widths(model, rows, collate)
    with torch.no_grad():
        first, last = (model(**collate(rows))[name].numpy() for name in ("first_width_index", "width_index"))
    sure = outputs.scores[np.arange(40), first] >= 0.6
    assert np.array_equal(first == last, sure)
    assert 5 < sure.sum() < 35


@pytest.mark.parametrize("labels", [torch.zeros(40), torch.zeros(40, 2), torch.full((40, 3), 0.5)])
def test_labels_of_another_form_than_the_answers_are_refused(labels):
    model = multi_label_model()
    with pytest.raises(InputError, match="each input needs 3 zeros and ones"):
        accuracy_report(model, run_all_widths(model, task_rows("labels", 40), collate), labels)


def test_a_regression_has_no_accuracy():
    for task in ("number", "numbers"):
        with pytest.raises(InputError, match="problem_type regression: its answers are not right or wrong"):
            run_all_widths(task_model(task), task_rows(task, 8), collate)


@pytest.mark.parametrize("task", OTHERS)
def test_what_speaks_of_one_class_refuses_other_models(task):
    model, rows = task_model(task), task_rows(task, 8)
    with pytest.raises(InputError, match="no classifier with one label for each input"):
        DriftMonitor(0.1).predict(model, collate(rows))
    if task != "labels":
        with pytest.raises(InputError, match="a report: counts answers that are right"):
            build_report(TrainedModel(model, None, None), None, "a report")


def test_sets_of_labels_have_no_bound_for_each_class():
    outputs = run_all_widths(multi_label_model(), task_rows("labels", 40), collate)
    with pytest.raises(InputError, match="`per_class`: the model answers with sets of labels"):
        calibrate(outputs, Constraint("max_disagreement", 0.5, per_class=True), 3)


def test_sets_that_no_answer_is_like_get_numbers_of_their_own():
    model, rows = multi_label_model(), task_rows("labels", 40)
    outputs = run_all_widths(model, rows, collate)
    labels = collate(rows)["labels"].numpy().copy()
    unlike = [row for row in np.ndindex(2, 2, 2) if list(row) not in outputs.label_sets.astype(int).tolist()]
    labels[: len(unlike)] = np.array(unlike).reshape(-1, 3)
    found = outputs.labelled(labels)
    assert found.label_sets[found.labels].astype(float).tolist() == labels.tolist()
    assert found.predictions.tolist() == outputs.predictions.tolist()
