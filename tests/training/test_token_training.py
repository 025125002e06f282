"""Training of token classification and question answering: losses and confidences in plain sums, runs, refusals."""

import math
import shutil

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight

from helpers.encoders import make_batch
from helpers.tiny import PAPER, RECIPE_WEIGHTS, TRAINERS, arguments, logged_losses, rows_of
from helpers.tokens import KINDS, UNLABELLED, answers, collate, labels_for, toy_model, toy_rows
from sharcs import DriftMonitor, InputError
from sharcs.evaluation.widths import run_all_widths
from sharcs.export.bundle import export_model
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.folder import TrainedModel
from sharcs.report.content import build_report
from sharcs.tasks.spans import SpanLabels, SpanTask
from sharcs.tasks.tokens import TokenTask

ROWS, EPOCHS, NARROW_EPOCHS = 24, 2, 2
STEPS = ROWS // 8
PLUS = {
    "recipe": "sharcs+",
    "num_train_epochs": EPOCHS,
    "subnetwork_epochs": NARROW_EPOCHS,
    "importance_samples": 16,
}
CASES = [("tokens", None), ("tokens", [0.5, 3.0, 1.5]), ("spans", None)]
each_kind = pytest.mark.parametrize("kind", KINDS)


def trainer_for(folder, model, rows, *, recipe=PAPER, **settings):
    args = arguments(folder, recipe=recipe, **settings)
    return TRAINERS[recipe](model=model, args=args, train_dataset=rows, data_collator=collate)


# In plain numbers


def softmax(scores):
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def distributions(kind, answer, row):
    """The answer to one row ``[tokens or more, labels]``, as what is learned from: lists of probabilities.

    Of each labelled token over classes; or of start and end over the tokens of the text.
    """
    scores = answer[: len(row["input_ids"])].double().tolist()
    if kind == "spans":
        return [softmax(of_position) for of_position in zip(*scores, strict=True)]
    return [softmax(of_token) for of_token, label in zip(scores, row["labels"], strict=True) if label != UNLABELLED]


def truths(kind, row):
    """What each of these should name; None if it doesn't count."""
    if kind == "tokens":
        return [label for label in row["labels"] if label != UNLABELLED]
    positions = row["start_positions"], row["end_positions"]
    return [position if position < len(row["input_ids"]) else None for position in positions]


def row_losses(kind, answer, row):
    pairs = zip(distributions(kind, answer, row), truths(kind, row), strict=True)
    return [None if truth is None else -math.log(probability[truth]) for probability, truth in pairs]


def slow_confidence(kind, answer, row):
    losses = [loss for loss in row_losses(kind, answer, row) if loss is not None]
    return math.exp(-sum(losses) / len(losses)) if losses else 1.0


def mean(values, weights=None):
    weights = weights or [1.0] * len(values)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights) if values else 0.0


def slow_loss(kind, batch_answers, rows, weights=None):
    """Loss of a batch: over all its labelled tokens; or over its starts, and over its ends."""
    losses = [row_losses(kind, *pair) for pair in zip(batch_answers, rows, strict=True)]
    if kind == "spans":
        return mean([mean([loss for loss in column if loss is not None]) for column in zip(*losses, strict=True)])
    weights = weights and [weights[truth] for row in rows for truth in truths(kind, row)]
    return mean([loss for of_row in losses for loss in of_row], weights)


def slow_divergence(kind, students, teachers, rows):
    """The mean over labelled tokens; or over starts and ends."""
    found = []
    for student, teacher, row in zip(students, teachers, rows, strict=True):
        pairs = zip(distributions(kind, teacher, row), distributions(kind, student, row), strict=True)
        found += [sum(p * math.log(p / q) for p, q in zip(*pair, strict=True)) for pair in pairs]
    return mean(found)


def slow_router_loss(logits, targets):
    scores = [1 / (1 + math.exp(-x)) for row in logits.double().tolist() for x in row]
    wanted = [target for row in targets for target in row]
    return mean([-math.log(p if y else 1 - p) for p, y in zip(scores, wanted, strict=True)])


# Losses and confidences


@pytest.mark.parametrize(("kind", "weights"), CASES)
def test_losses_and_confidence_are_those_of_plain_sums(kind, weights):
    rows, generator = toy_rows(kind, 8), torch.Generator().manual_seed(0)
    batch = collate(rows)
    assert kind == "tokens" or rows[0]["start_positions"] < batch["input_ids"].shape[1]  # padding, which is no place
    shape = (2, *batch["input_ids"].shape, KINDS[kind].num_labels)
    student, teacher = (3 * torch.randn(shape, generator=generator) for _ in range(2))
    task = SpanTask() if kind == "spans" else TokenTask(None if weights is None else torch.tensor(weights))
    labels = task.labels_of(batch)
    expected = [[slow_confidence(kind, *pair) for pair in zip(of_width, rows, strict=True)] for of_width in student]
    torch.testing.assert_close(task.confidence(student, labels), torch.tensor(expected), atol=1e-6, rtol=1e-5)
    losses = [slow_loss(kind, of_width, rows, weights) for of_width in student]
    assert [task.narrow_loss(of_width, labels).item() for of_width in student] == pytest.approx(losses, rel=1e-5)
    far = [slow_divergence(kind, of_width, teacher[0], rows) for of_width in student]
    found = [task.divergence(of_width, teacher[0], labels).item() for of_width in student]
    assert found == pytest.approx(far, rel=1e-5)
    together = task.distillation_loss(student, teacher[0], labels).item()
    assert together == pytest.approx(sum(losses) + sum(far), rel=1e-5)


@each_kind
def test_the_teacher_learns_nothing_and_padding_teaches_nothing(kind):
    batch = collate(toy_rows(kind, 8))
    student, teacher = (torch.randn(*batch["input_ids"].shape, 3, requires_grad=True) for _ in range(2))
    task = TokenTask() if kind == "tokens" else SpanTask()
    task.distillation_loss(student[None], teacher, task.labels_of(batch)).backward()
    assert teacher.grad is None
    assert student.grad.isfinite().all()
    assert student.grad[batch["attention_mask"].bool()].any()
    assert not student.grad[~batch["attention_mask"].bool()].any()


def test_a_batch_without_labels_has_no_loss_and_is_sure():
    labels = torch.full((2, 3), UNLABELLED)
    past = SpanLabels(torch.full((2, 2), 9), torch.ones(2, 3, dtype=torch.bool))
    for task, of_none, outputs in (
        (TokenTask(), labels, 4),
        (TokenTask(torch.ones(4)), labels, 4),
        (SpanTask(), past, 2),
    ):
        logits = torch.randn(2, 3, outputs, requires_grad=True)
        loss = task.narrow_loss(logits, of_none)
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()
        assert task.confidence(logits, of_none).tolist() == [1.0, 1.0]
    assert TokenTask().divergence(torch.randn(2, 3, 4), torch.randn(2, 3, 4), labels).item() == 0


@pytest.mark.parametrize("side", ["left", "right"])
@each_kind
def test_kept_answers_are_put_onto_the_real_tokens_of_a_batch_that_is_padded_otherwise(kind, side):
    task = TokenTask() if kind == "tokens" else SpanTask()
    lengths, values = [2, 5, 3], torch.randn(3, 5, 2)

    def padded_to(columns):
        start = [columns - length if side == "left" else 0 for length in lengths]
        mask, found = torch.zeros(3, columns, dtype=torch.long), torch.full((3, columns, 2), 9.0)
        for row, (first, length) in enumerate(zip(start, lengths, strict=True)):
            mask[row, first : first + length] = 1
            found[row, first : first + length] = values[row, :length]
        return {"input_ids": mask, "attention_mask": mask}, found

    inputs, logits = padded_to(7)
    kept = torch.nn.utils.rnn.pad_sequence(task.kept(logits, inputs), batch_first=True)
    assert kept.shape == (3, 5, 2)
    other, expected = padded_to(6)
    assert torch.equal(task.padded(kept, other), expected * other["attention_mask"].unsqueeze(-1))
    embedded = {"inputs_embeds": torch.zeros(3, 5, 8)}  # without a mask all tokens are real
    assert torch.equal(task.padded(torch.stack(task.kept(values, embedded)), embedded), values)


# Whole runs


def watch(model):
    """Note every pass of a training step."""
    passes = []

    def note(model, _args, kwargs, output):
        if model.training or kwargs.get("widths") == "narrow":
            passes.append((kwargs, output))

    model.register_forward_hook(note, with_kwargs=True)
    return passes


@pytest.mark.parametrize(("kind", "weights"), CASES)
def test_what_sharcs_plus_minimises(tmp_path, kind, weights):
    """The full network's loss; then task loss and divergence of each narrow width, and the router's loss."""
    rows, model = toy_rows(kind, ROWS), toy_model(kind, widths=(0.25, 0.5, 1.0), weights="own")
    passes = watch(model)
    more = {"learning_rate": 1e-2, "class_weights": weights, "router_loss_weight": 0.5}
    trainer = trainer_for(tmp_path, model, rows, **PLUS | more)
    trainer.train()
    alone = []  # the second run didn't change the teacher
    with torch.no_grad():
        for row in rows:
            alone.append(answers(model.eval()(**collate([row]), width=1.0))[0])
    longest = max(len(row["input_ids"]) for row in rows)
    teacher = trainer.subnetwork_trainer._teacher
    assert teacher.shape == (ROWS, longest, KINDS[kind].num_labels)
    for found, expected in zip(teacher, alone, strict=True):
        torch.testing.assert_close(found[: len(expected)], expected, atol=1e-5, rtol=1e-4)
        assert not found[len(expected) :].any()
    expected, sure = [], []
    for kwargs, output in passes:
        of_batch = [rows[number] for number in rows_of(kwargs["input_ids"])]
        if output.width_logits is None:
            loss = output.loss.item() if weights is None else slow_loss(kind, output.logits, of_batch, weights)
            if kind == "tokens" and weights is None:
                assert loss == pytest.approx(slow_loss(kind, output.logits, of_batch), rel=1e-5)
            expected.append(loss)
            continue
        total, teachers = 0.0, [alone[number] for number in rows_of(kwargs["input_ids"])]
        for of_width in output.width_logits:
            total += slow_loss(kind, of_width, of_batch, weights) + slow_divergence(
                kind, of_width, teachers, of_batch
            )
        first = []
        for number, row in enumerate(of_batch):
            confident = [slow_confidence(kind, one[number], row) >= 0.8 for one in output.width_logits]
            first.append([*confident, True].index(True))
        sure += first
        targets = [[float(index == chosen) for index in range(3)] for chosen in first]
        expected.append(total + 0.5 * slow_router_loss(output.router_logits, targets))
    logged = logged_losses(trainer)
    assert len(set(sure)) > 1
    assert len(logged) == (EPOCHS + NARROW_EPOCHS) * STEPS
    assert logged == pytest.approx(expected, rel=1e-4)


@each_kind
def test_the_papers_recipe_minimises_the_plain_loss_and_records_the_confidences(tmp_path, kind):
    rows, model = toy_rows(kind, ROWS), toy_model(kind)
    passes = watch(model)
    trainer = trainer_for(tmp_path, model, rows, num_train_epochs=1, window=1)
    trainer.train()
    confidences = {}
    for kwargs, output in passes:
        for number, answer in zip(rows_of(kwargs["input_ids"]), answers(output), strict=True):
            confidences[number] = slow_confidence(kind, answer, rows[number])
    assert trainer.history.values[:, 0].tolist() == pytest.approx([confidences[n] for n in range(ROWS)], abs=1e-5)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([output.loss.item() for _, output in passes], rel=1e-5)


@pytest.mark.parametrize("recipe", ["sharcs+", "paper"])
@each_kind
def test_both_recipes_learn(tmp_path, kind, recipe):
    """One answer to all would be right for half of the tokens, or for hardly any text."""
    rows, model = toy_rows(kind, 64), toy_model(kind, weights=RECIPE_WEIGHTS[recipe])
    more = {"num_train_epochs": 6, "learning_rate": 5e-3}
    if recipe == "sharcs+":
        more = PLUS | more | {"subnetwork_epochs": 4}
    else:
        more |= {"window": 2, "bands": {0.25: (0.5, 1.0), 1.0: (0.0, 0.7)}, "importance_samples": 16}
    trainer = trainer_for(tmp_path, model, rows, **more)
    trainer.train()
    assert model.config.routing_policy.escalates == (recipe == "sharcs+")
    test = toy_rows(kind, 40, seed=1)
    ways = [{}, {"width": 0.25}, {"width": 1.0}] if recipe == "sharcs+" else [{}]
    for way in ways:
        with torch.no_grad():
            found = answers(
                model.eval()(**{n: v for n, v in collate(test).items() if "mask" in n or "ids" in n}, **way)
            )
        right = []
        for answer, row in zip(found, test, strict=True):
            named = distributions(kind, answer, row)
            pairs = zip(named, truths(kind, row), strict=True)
            right += [max(range(len(p)), key=p.__getitem__) == truth for p, truth in pairs if truth is not None]
        assert mean(right) > 0.9, way
    trainer.train_dataset = None
    result = trainer.predict(test[:10])
    width = max(len(row["input_ids"]) for row in test[:10])
    shapes = [part.shape for part in (result.predictions if kind == "spans" else [result.predictions])]
    assert shapes == ([(10, width)] * 2 if kind == "spans" else [(10, width, 3)])
    assert math.isfinite(result.metrics["test_loss"])


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    """A run that wasn't interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    saving = PLUS | {"save_strategy": "steps", "save_steps": 2, "seed": 3}
    torch.manual_seed(0)
    model = toy_model(request.param, weights="own")
    trainer_for(folder, model, toy_rows(request.param, ROWS), **saving).train()
    return request.param, folder, saving


@pytest.mark.parametrize("kept", ["checkpoint-4", "subnetworks/checkpoint-2"])
def test_a_resumed_run_ends_like_one_that_was_not_interrupted(whole, tmp_path, kept):
    kind, folder, saving = whole
    shutil.copytree(folder / kept, tmp_path / kept)
    torch.manual_seed(1)
    model = toy_model(kind, weights="own")
    trainer_for(tmp_path, model, toy_rows(kind, ROWS), **saving).train(resume_from_checkpoint=True)
    last = f"subnetworks/checkpoint-{NARROW_EPOCHS * STEPS}/model.safetensors"
    expected, found = (load_file(where / last) for where in (folder, tmp_path))
    assert set(expected) == set(found)
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key


# What the labels say


def test_balanced_weights_of_classes_are_scikit_learns_over_labelled_tokens():
    rows = toy_rows("tokens", ROWS)
    labels = [label for row in rows for label in row["labels"] if label != UNLABELLED]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    for data in (rows, datasets.Dataset.from_list(rows), datasets.Dataset.from_list(rows).with_format("torch")):
        task = toy_model("tokens").training_task(data, "balanced")
        np.testing.assert_allclose(task.class_weights.numpy(), expected, rtol=1e-6)


def test_positions_are_read_from_data_sets_of_any_kind():
    rows = toy_rows("spans", 8)
    for row in rows[:4]:
        row["start_positions"] = torch.tensor([row["start_positions"]])
    assert isinstance(toy_model("spans").training_task(rows, None), SpanTask)
    data = datasets.Dataset.from_list(toy_rows("spans", 8))
    for kind_of in (data, data.with_format("numpy")):
        assert isinstance(toy_model("spans").training_task(kind_of, None), SpanTask)


def drop(*names):
    return lambda row: [row.pop(name) for name in names]


def give(**values):
    return lambda row: row.update(values)


def relabel(place, label):
    return lambda row: row["labels"].__setitem__(place, label)


@pytest.mark.parametrize(
    ("kind", "change", "weights", "message"),
    [
        ("tokens", drop("labels"), None, "row 3: it has not all of input_ids, labels"),
        ("tokens", give(labels=1), None, r"row 3: it has labels of shape \[\] for \d+ tokens; give one a token"),
        ("tokens", lambda row: row["labels"].pop(), None, r"row 3: it has labels of shape \[\d+\] for"),
        ("tokens", relabel(4, 3), None, "row 3: the label of token 4 is 3; it has to be from 0 to 2, or -100"),
        ("tokens", relabel(4, -1), None, "row 3: the label of token 4 is -1; it has to be from 0 to 2, or -100"),
        ("tokens", relabel(4, 0.5), None, "row 3: its labels are .*; give whole numbers"),
        ("tokens", relabel(4, "PER"), None, "row 3: its labels are .*; give whole numbers"),
        ("tokens", give(labels=None), None, "row 3: its labels are None; give whole numbers"),
        ("tokens", give(), [1.0], "class_weights: are 1, and the model has 3 labels"),
        ("spans", drop("end_positions"), None, "row 3: it has not all of start_positions, end_positions"),
        ("spans", give(start_positions=1.0), None, r"row 3: its start_positions is 1\.0; give whole numbers"),
        ("spans", give(start_positions=True), None, "row 3: its start_positions is True; give whole numbers"),
        ("spans", give(end_positions=None), None, "row 3: its end_positions is None; give whole numbers"),
        ("spans", give(end_positions=[3, 4]), None, r"row 3: its end_positions is \[3, 4\]; give one number"),
        ("spans", give(start_positions=-1), None, "row 3: its start_positions is -1; it has to be a token's number"),
        ("spans", give(), [1.0, 1.0], "class_weights: question answering has no classes"),
        ("spans", give(), "balanced", "class_weights: question answering has no classes"),
    ],
)
def test_labels_and_weights_that_do_not_fit_are_refused(tmp_path, kind, change, weights, message):
    rows = toy_rows(kind, 8)
    change(rows[2])
    with pytest.raises(InputError, match=message) as refusal:
        trainer_for(tmp_path, toy_model(kind), rows, class_weights=weights)
    assert "\n" not in str(refusal.value)


@each_kind
def test_rows_without_labels_are_refused(tmp_path, kind):
    names = {"tokens": "labels", "spans": "start_positions and no end_positions"}
    rows = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in toy_rows(kind, 8)]
    for data in (rows, datasets.Dataset.from_list(rows)):
        with pytest.raises(InputError, match=f"train_dataset: its rows have no {names[kind]}; add that"):
            trainer_for(tmp_path, toy_model(kind), data)


def test_labels_that_are_all_none_and_classes_that_are_one_are_refused(tmp_path):
    rows = toy_rows("tokens", 8)
    few = [row | {"labels": [0] * len(row["input_ids"])} for row in rows]
    with pytest.raises(InputError, match="no training row has the label 'LABEL_1', which gives it no weight"):
        trainer_for(tmp_path, toy_model("tokens"), few, class_weights="balanced")
    for row in rows:
        row["labels"] = [UNLABELLED] * len(row["input_ids"])
    with pytest.raises(InputError, match="all its labels are -100"):
        trainer_for(tmp_path, toy_model("tokens"), rows)
    model = toy_model("tokens")
    model.config.num_labels = 1
    with pytest.raises(InputError, match="takes two classes or more"):
        trainer_for(tmp_path, model, toy_rows("tokens", 8))


@each_kind
def test_what_speaks_of_one_class_refuses_these_models(tmp_path, kind):
    model, rows = toy_model(kind), toy_rows(kind, 8)
    batch = make_batch(model.encoder.config, [4, 9, 1, 6]) | labels_for(kind, [4, 9, 1, 6])
    uses = [
        lambda: build_report(TrainedModel(model, None, None), None, "a report"),
        lambda: InferenceEngine(model, None),
        lambda: DriftMonitor(0.1).predict(model, batch),
        lambda: export_model(model, None, tmp_path / "out"),
    ]
    for use in uses:
        with pytest.raises(
            InputError,
            match=r"one label for each input|one answer for each input|counts answers",
        ):
            use()
    with pytest.raises(InputError, match="its answers are not right or wrong as a whole"):
        run_all_widths(model, rows, collate)


@pytest.mark.parametrize("recipe", ["sharcs+", "paper"])
@each_kind
def test_batches_without_a_label_leave_the_weights_finite(tmp_path, kind, recipe):
    """The plain model's loss of such a batch is the mean of nothing."""
    model = toy_model(kind, weights=RECIPE_WEIGHTS[recipe])
    more = {"num_train_epochs": 1, "importance_samples": 8, "per_device_train_batch_size": 1}
    more |= PLUS | more | {"subnetwork_epochs": 1} if recipe == "sharcs+" else {"window": 1}
    trainer_for(tmp_path, model, toy_rows(kind, 8), **more).train()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
