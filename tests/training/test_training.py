"""A training run, watched from outside and computed again by hand; see :class:`tiny.Spy`."""

import math
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, get_cosine_schedule_with_warmup

from helpers import tiny
from helpers.tiny import Spy, arguments, collate, rows_of, tiny_encoder, tiny_model, toy_rows, trainer_for
from sharcs.errors import InputError
from sharcs.training.arguments import PaperTrainingArguments
from sharcs.training.paper import PaperTrainer

ROWS = 48
BATCH = 8
WINDOW = 2
EPOCHS = 5
TASK, ROUTER = 0.7, 0.3
BANDS = {0.25: (0.6, 1.0), 0.5: (0.45, 1.0), 1.0: (0.0, 0.5)}  # they overlap
THREE_BANDS, TWO_BANDS = tuple(BANDS.values()), tuple(tiny.BANDS.values())


def run(folder, *, rows=None, model=None, resume=None, **settings):
    """Train to the end and return the spy."""
    model = model or tiny_model()
    trainer = trainer_for(folder, model, rows or toy_rows(ROWS), **settings)
    spy = Spy().watch(trainer)
    trainer.train(resume)
    return spy


@pytest.fixture(scope="module")
def spy(tmp_path_factory):
    """A run over three widths with overlapping bands, and losses that are weighted."""
    return run(
        tmp_path_factory.mktemp("run"),
        model=tiny_model(widths=(0.25, 0.5, 1.0)),
        num_train_epochs=EPOCHS,
        window=WINDOW,
        bands=BANDS,
        task_loss_weight=TASK,
        router_loss_weight=ROUTER,
    )


def confidences_by_hand(spy):
    """Tell every row's last confidence in every epoch from the logits that the model returned."""
    seen = [{} for _ in spy.updates]
    for one in spy.passes:
        seen[one.epoch].update(zip(one.rows, one.confidences, strict=True))
    return seen


def label_by_hand(confidences, bands=THREE_BANDS):
    label = [float(all(low <= c and (c < high or high == 1) for c in confidences)) for low, high in bands]
    return label if any(label) else [0.0] * (len(bands) - 1) + [1.0]


def labels_by_hand(spy, window=WINDOW, bands=THREE_BANDS):
    """Compute the hardness labels of every epoch, by row; None in the first epochs."""
    seen = confidences_by_hand(spy)
    return [
        None
        if epoch < window
        else {
            row: label_by_hand([seen[past][row] for past in range(epoch - window, epoch)], bands) for row in seen[0]
        }
        for epoch in range(len(seen))
    ]


def loss_by_hand(one, label, task=TASK, router=ROUTER):
    """Compute λ_task · cross-entropy + λ_router · binary cross-entropy of one batch, number by number."""
    cross_entropy = -sum(math.log(confidence) for confidence in one.confidences) / len(one.rows)
    if label is None:
        return task * cross_entropy
    terms = []
    for row, logits in zip(one.rows, one.router_logits.double().tolist(), strict=True):
        for logit, target in zip(logits, label[row], strict=True):
            probability = 1 / (1 + math.exp(-logit))
            terms.append(-math.log(probability if target else 1 - probability))
    return task * cross_entropy + router * sum(terms) / len(terms)


# What a run does


def test_the_run_uses_all_widths(spy):
    """Without which the tests below would check little."""
    for labels in labels_by_hand(spy)[WINDOW:]:
        assert len({tuple(label) for label in labels.values()}) >= 3
    assert {one.width_index for one in spy.passes} == {0, 1, 2}
    assert len(spy.updates) == EPOCHS


def test_first_epochs_run_at_full_width_and_do_not_teach_the_router(spy):
    assert {one.width_index for one in spy.passes if one.epoch < WINDOW} == {2}
    untrained = torch.cat(
        [p.detach().flatten() for p in tiny_model(widths=(0.25, 0.5, 1.0)).tail.router.parameters()]
    )
    assert [torch.equal(router, untrained) for router in spy.routers] == [True] * WINDOW + [False] * (EPOCHS - WINDOW)
    assert spy.hardness[:WINDOW] == [None] * WINDOW


def test_history_holds_the_confidences_of_the_returned_logits(spy):
    seen = confidences_by_hand(spy)
    for epoch, history in enumerate(spy.histories):
        recent = seen[max(0, epoch + 1 - WINDOW) : epoch + 1]
        for row in range(ROWS):
            expected = sorted(past[row] for past in recent)
            found = sorted(value for value in history[row].tolist() if not math.isnan(value))
            assert found == pytest.approx(expected, abs=1e-6)


def test_labels_follow_from_the_recorded_confidences(spy):
    for labels, hardness in zip(labels_by_hand(spy)[WINDOW:], spy.hardness[WINDOW:], strict=True):
        assert hardness.tolist() == [labels[row] for row in range(ROWS)]


def test_each_sample_trains_all_epoch_at_one_of_its_labelled_widths(spy):
    for epoch, labels in enumerate(labels_by_hand(spy)):
        widths = {}
        for one in spy.in_epoch(epoch):
            for row in one.rows:
                assert widths.setdefault(row, one.width_index) == one.width_index
                assert labels is None or labels[row][one.width_index] == 1
        assert sorted(widths) == list(range(ROWS))


def test_an_epoch_has_as_many_steps_as_its_balanced_groups(spy):
    for epoch, updates in enumerate(spy.updates):
        groups = Counter()
        for row, width in {(row, one.width_index) for one in spy.in_epoch(epoch) for row in one.rows}:
            groups[width] += row >= 0
        assert updates == len(groups) * -(-max(groups.values()) // BATCH)
    assert spy.trainer.state.global_step == spy.trainer.state.max_steps == sum(spy.updates)


def test_loss_is_the_weighted_sum_of_both_losses(spy):
    labels = labels_by_hand(spy)
    expected = [loss_by_hand(one, labels[one.epoch]) for one in spy.passes]
    assert spy.losses() == pytest.approx(expected, rel=1e-4)


def test_gradients_are_those_of_both_losses(tmp_path):
    # One step with a plain optimiser: weights move by the learning rate times the gradient of the summed loss.
    model = tiny_model()
    model.eval()  # the copy below has to see no dropout; the trainer switches to training mode, so take it out
    for module in [
        *model.modules(),
        *(m for subnetwork in model.tail.narrow for twin in subnetwork.twins for m in twin.modules()),
    ]:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in [*model.encoder.bert.encoder.layer[:1], *model.tail.layers, *model.tail.narrow[0].twins]:
        layer.attention.self.dropout.p = 0.0
    rows = toy_rows(BATCH)
    trainer = trainer_for(
        tmp_path,
        model,
        rows,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        window=1,
        bands={0.25: (0.0, 1.0), 1.0: (0.0, 1e-9)},
        num_train_epochs=2,
        lr_scheduler_type="constant",
        task_loss_weight=TASK,
        router_loss_weight=ROUTER,
    )

    class AfterOneStep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    after = AfterOneStep()
    trainer.add_callback(after)
    trainer.train()
    final = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.load_state_dict(model.state_dict() | after.weights)
    output = model(**collate(rows), width=0.25)
    target = torch.tensor([[1.0, 0.0]] * BATCH)
    router_loss = -(
        target * output.router_logits.sigmoid().log() + (1 - target) * (-output.router_logits).sigmoid().log()
    )
    model.zero_grad()
    (TASK * output.loss + ROUTER * router_loss.mean()).backward()
    for name, parameter in model.named_parameters():
        step = 0 if parameter.grad is None else 0.1 * parameter.grad
        torch.testing.assert_close(final[name], after.weights[name] - step, atol=1e-6, rtol=1e-4)


def test_history_and_labels_keep_no_graph(spy):
    trainer = spy.trainer
    for tensor in (trainer.history.values, trainer.hardness, trainer.width_index):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None


def test_shares_are_logged_once_an_epoch_and_are_those_of_the_epoch(spy):
    entries = [entry for entry in spy.trainer.state.log_history if "share_0.25" in entry]
    assert len(entries) == EPOCHS - WINDOW
    for epoch, entry in enumerate(entries, start=WINDOW):
        widths = {row: one.width_index for one in spy.in_epoch(epoch) for row in one.rows}
        shares = [list(widths.values()).count(index) / ROWS for index in range(3)]
        assert [entry["share_0.25"], entry["share_0.5"], entry["share_1"]] == pytest.approx(shares)


def test_the_toy_task_is_learnt(tmp_path):
    rows = toy_rows(96)
    model = run(tmp_path, rows=rows, num_train_epochs=6).trainer.model.eval()
    batch = collate([row for number, row in enumerate(rows) if number % 4])  # the others have random labels
    labels = batch.pop("labels")
    with torch.no_grad():
        right = model(**batch).logits.argmax(1) == labels
    assert right.float().mean() > 0.9


# The learning rate


def test_learning_rate_follows_the_share_of_epochs_done_and_ends_near_zero(spy):
    expected = [
        3e-3 * (1 - (epoch + done / updates) / EPOCHS)
        for epoch, updates in enumerate(spy.updates)
        for done in range(updates)
    ]
    assert len(set(spy.updates)) > 1, "all epochs are of one length"
    assert spy.rates == pytest.approx(expected, rel=1e-6)
    assert 0 < spy.rates[-1] <= 3e-3 / EPOCHS / spy.updates[-1] * 1.001
    assert spy.trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)


class Rates(TrainerCallback):
    """Notes the learning rate of each step."""

    def __init__(self):
        """Start with none."""
        self.rates = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Note one."""
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    "settings",
    [
        {"num_train_epochs": 2},
        {"num_train_epochs": 2, "warmup_steps": 3, "gradient_accumulation_steps": 4},
        {"num_train_epochs": 1.5},
        {"max_steps": 5, "warmup_steps": 2},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_schedule_equals_the_plain_trainers_while_all_epochs_have_its_length(tmp_path, settings):
    rows = toy_rows(ROWS)
    settings = {"window": 9, "train_sampling_strategy": "random"} | settings
    spy = run(tmp_path, rows=rows, **settings)
    plain = arguments(tmp_path, **settings).to_dict()
    own = set(PaperTrainingArguments.__dataclass_fields__) - set(TrainingArguments.__dataclass_fields__)
    keep = {name: plain[name] for name in plain if name not in own and plain[name] is not None}
    rates = Rates()
    trainer = Trainer(
        model=tiny_encoder(),
        args=TrainingArguments(**keep),
        train_dataset=rows,
        data_collator=collate,
        callbacks=[rates],
    )
    trainer.train()
    assert spy.rates == pytest.approx(rates.rates, rel=1e-6, abs=1e-12)
    assert spy.trainer.state.global_step == trainer.state.global_step


def test_other_schedules_follow_the_epochs_too(tmp_path):
    spy = run(tmp_path, num_train_epochs=3, window=1, lr_scheduler_type="cosine", warmup_steps=4)
    nominal = ROWS // BATCH
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    curve = get_cosine_schedule_with_warmup(optimizer, 4, 3 * nominal).lr_lambdas[0]
    expected = [
        3e-3 * curve((epoch + done / updates) * nominal)
        for epoch, updates in enumerate(spy.updates)
        for done in range(updates)
    ]
    assert spy.rates == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_fraction_of_an_epoch_at_the_end_is_kept_to(tmp_path):
    spy = run(tmp_path, num_train_epochs=2.5, window=1)
    labels = labels_by_hand(spy, 1, TWO_BANDS)[2]
    widths = spy.trainer.width_index.tolist()
    assert all(label[widths[row]] for row, label in labels.items())
    whole = len(set(widths)) * -(-max(Counter(widths).values()) // BATCH)
    assert spy.updates[2] == math.ceil(whole / 2)


# Steps


def test_gradient_accumulation_averages_the_batches_of_each_step(tmp_path):
    spy = run(tmp_path, rows=toy_rows(40), gradient_accumulation_steps=2, num_train_epochs=3, window=1)
    labels = labels_by_hand(spy, 1, TWO_BANDS)
    parts = [[] for _ in spy.rates]
    for one in spy.passes:
        parts[one.update].append(loss_by_hand(one, labels[one.epoch], 1, 1))
    assert 1 in map(len, parts), "every step has two batches"
    assert spy.losses() == pytest.approx([sum(losses) / len(losses) for losses in parts], rel=1e-4)
    for epoch, updates in enumerate(spy.updates):
        assert updates == -(-len(spy.in_epoch(epoch)) // 2)
    expected = [
        3e-3 * (1 - (epoch + done / updates) / 3)
        for epoch, updates in enumerate(spy.updates)
        for done in range(updates)
    ]
    assert spy.rates == pytest.approx(expected, rel=1e-6)


def test_max_steps_end_the_run_within_an_epoch_and_shape_the_learning_rate(tmp_path):
    spy = run(tmp_path, max_steps=15, window=1)
    assert len(spy.rates) == spy.trainer.state.global_step == 15
    assert spy.updates[0] == ROWS // BATCH
    assert {one.width_index for one in spy.passes} == {0, 1}
    assert spy.rates == pytest.approx([3e-3 * (1 - step / 15) for step in range(15)], rel=1e-6)


@pytest.mark.parametrize(
    ("bands", "index"),
    [({0.25: (0.0, 1.0), 1.0: (0.0, 1e-9)}, 0), ({0.25: (0.0, 1e-9)}, 1)],
    ids=["all narrow", "all full"],
)
def test_all_samples_in_one_group_make_an_epoch_of_its_batches_only(tmp_path, bands, index):
    spy = run(tmp_path, rows=toy_rows(20), num_train_epochs=2, window=1, bands=bands)
    assert spy.updates == [3, 3]
    assert {one.width_index for one in spy.in_epoch(1)} == {index}


def test_a_second_call_starts_anew_with_full_width_epochs(tmp_path):
    trainer = trainer_for(tmp_path, tiny_model(), toy_rows(ROWS), num_train_epochs=2, window=1)
    trainer.train()
    spy = Spy().watch(trainer)
    trainer.train()
    assert {one.width_index for one in spy.in_epoch(0)} == {1}
    labels = labels_by_hand(spy, 1, TWO_BANDS)
    assert spy.losses() == pytest.approx([loss_by_hand(one, labels[one.epoch], 1, 1) for one in spy.passes], rel=1e-4)


def test_reordering_before_training_follows_the_setting(tmp_path):
    weights = []
    for samples in (0, 16, 16):
        model = tiny_model()
        trainer = trainer_for(
            tmp_path, model, toy_rows(ROWS), importance_samples=samples, max_steps=1, learning_rate=0.0
        )
        torch.manual_seed(len(weights))  # the rows to measure on don't hang on the global source of randomness
        trainer.train()
        weights.append(model.tail.layers[0].intermediate.dense.weight.detach().clone())
    untouched = tiny_model().tail.layers[0].intermediate.dense.weight
    assert torch.equal(weights[0], untouched)
    assert not torch.equal(weights[1], untouched)
    assert torch.equal(weights[1], weights[2])
    assert torch.equal(weights[1].sum(1).sort().values, untouched.sum(1).sort().values)


def test_encoders_of_an_unknown_build_train_when_told_not_to_reorder(tmp_path):
    model = tiny_model()
    model.tail.layers[0].extra = torch.nn.Linear(tiny.HIDDEN, tiny.HIDDEN)
    with pytest.raises(InputError, match="importance_samples=0"):
        trainer_for(tmp_path, model, toy_rows(8), max_steps=1, importance_samples=8).train()
    trainer_for(tmp_path, model, toy_rows(8), max_steps=1, importance_samples=0).train()


# Data sets


def final_weights(folder, rows, **settings):
    spy = run(folder, rows=rows, num_train_epochs=2, window=1, **settings)
    assert all(sorted({row for one in spy.in_epoch(e) for row in one.rows}) == list(range(24)) for e in (0, 1))
    return spy, {name: value.clone() for name, value in spy.trainer.model.state_dict().items()}


def test_lists_and_datasets_train_alike_with_and_without_a_length_column(tmp_path):
    rows = toy_rows(24)
    plain = datasets.Dataset.from_list(rows)
    with_length = plain.add_column("length", [len(row["input_ids"]) for row in rows])
    # As sharcs.data.texts.tokenise makes it; that a row's id is its place does not hang on this column.
    with_ids = with_length.add_column("sample_id", [1000 + number for number in range(24)])
    spy, expected = final_weights(tmp_path, rows)
    assert {one.width_index for one in spy.passes} == {0, 1}
    for data in (plain, with_length, with_ids):
        _, found = final_weights(tmp_path, data)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_samples_of_like_length_share_batches_unless_told_otherwise(tmp_path):
    waste = {}
    rows = toy_rows(128)
    for strategy in ("group_by_length", "random"):
        spy = run(tmp_path, rows=rows, num_train_epochs=1, window=1, train_sampling_strategy=strategy)
        lengths = [[len(rows[row]["input_ids"]) for row in one.rows] for one in spy.passes]
        waste[strategy] = sum(max(batch) * len(batch) - sum(batch) for batch in lengths)
    assert waste["group_by_length"] < 0.7 * waste["random"]


def test_rows_are_shuffled_anew_every_epoch_and_by_the_seed(tmp_path):
    orders = []
    for seed in (0, 0, 1):
        spy = run(tmp_path, rows=toy_rows(24), num_train_epochs=2, window=9, seed=seed)
        orders.append([[row for one in spy.in_epoch(epoch) for row in one.rows] for epoch in (0, 1)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert orders[0][0] != list(range(24))


# Evaluation by the trainer


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """What a trainer says about new rows, and what its model says about them one by one."""
    rows, seen = toy_rows(30, seed=5), []
    model = tiny_model(widths=(0.25, 0.5, 1.0)).eval()
    with torch.no_grad():  # a router that takes all widths
        model.tail.router.output.bias -= model(**collate(rows)).router_logits.mean(dim=0)
        outputs = [model(**collate([row])) for row in rows]
    assert {int(output.width_index) for output in outputs} == {0, 1, 2}
    trainer = trainer_for(tmp_path_factory.mktemp("evaluated"), model, toy_rows(ROWS))
    trainer.compute_metrics = lambda prediction: seen.append(prediction) or {"seen": len(prediction.label_ids)}
    metrics, prediction = trainer.evaluate(rows), trainer.predict(rows)
    assert trainer.history.values.isnan().all(), "evaluation was recorded as training"
    return rows, metrics, seen[0].predictions, prediction, outputs


def test_evaluate_routes_and_shows_plain_logits_to_metrics(evaluated):
    rows, metrics, logits, _, outputs = evaluated
    assert isinstance(logits, np.ndarray)
    expected = np.array([output.logits[0].tolist() for output in outputs])
    np.testing.assert_allclose(np.sort(logits, axis=0), np.sort(expected, axis=0), atol=1e-5)
    losses = [np.logaddexp(*pair) - pair[row["labels"]] for pair, row in zip(expected, rows, strict=True)]
    assert metrics["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["eval_seen"] == len(rows)


def test_predict_returns_plain_logits_in_the_order_of_the_rows(evaluated):
    rows, _, _, prediction, outputs = evaluated
    assert isinstance(prediction.predictions, np.ndarray)
    expected = np.array([output.logits[0].tolist() for output in outputs])
    np.testing.assert_allclose(prediction.predictions, expected, atol=1e-5)
    assert prediction.label_ids.tolist() == [row["labels"] for row in rows]


def test_evaluation_rows_with_ids_are_no_training_rows(tmp_path):
    trainer = trainer_for(
        tmp_path, tiny_model(), toy_rows(ROWS), max_steps=1, remove_unused_columns=False, eval_strategy="no"
    )
    trainer.train()
    history = trainer.history.values.clone()

    def with_ids(rows):
        return collate(rows) | {"sample_id": torch.tensor([row["sample_id"] for row in rows])}

    trainer.data_collator = with_ids
    trainer.evaluate([row | {"sample_id": number} for number, row in enumerate(toy_rows(16, seed=3))])
    assert torch.equal(history.nan_to_num(-1), trainer.history.values.nan_to_num(-1))


def test_a_trainer_without_training_data_evaluates(tmp_path):
    trainer = PaperTrainer(model=tiny_model(), args=arguments(tmp_path), data_collator=collate)
    assert trainer.evaluate(toy_rows(8))["eval_loss"] > 0


# What is refused


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 0},
        {"window": -1},
        {"importance_samples": -1},
        {"task_loss_weight": -0.1},
        {"router_loss_weight": -1.0},
        {"task_loss_weight": math.nan},
        {"router_loss_weight": math.inf},
    ],
)
def test_settings_out_of_range_are_refused_by_name(tmp_path, settings):
    (name,) = settings
    with pytest.raises(InputError, match=name):
        arguments(tmp_path, **settings)


@pytest.mark.parametrize("bands", [{0.25: (0.9, 0.8)}, {0.25: (0.5, 1.5)}, {0.3: (0.0, 1.0)}])
def test_wrong_bands_are_refused(tmp_path, bands):
    with pytest.raises(InputError, match="band"):
        trainer_for(tmp_path, tiny_model(), toy_rows(8), bands=bands)


def test_defaults_are_the_papers(tmp_path):
    found = PaperTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    names = ("num_train_epochs", "learning_rate", "per_device_train_batch_size", "window")
    assert [getattr(found, name) for name in names] == [10, 2e-5, 32, 3]
    assert (found.task_loss_weight, found.router_loss_weight, found.bands) == (1, 1, None)


def test_row_names_are_read_back():
    """The tests above tell rows by their tokens."""
    assert rows_of(collate(toy_rows(100))["input_ids"]) == list(range(100))


@pytest.mark.parametrize("setting", ["label_smoothing_factor", "ignore_data_skip"])
def test_settings_that_this_training_cant_follow_are_refused(tmp_path, setting):
    with pytest.raises(InputError, match=setting):
        trainer_for(tmp_path, tiny_model(), toy_rows(ROWS), **{setting: 0.1 if "factor" in setting else True})


def test_a_loss_of_the_callers_own_is_refused(tmp_path):
    with pytest.raises(InputError, match="compute_loss_func"):
        PaperTrainer(
            model=tiny_model(), args=arguments(tmp_path), train_dataset=toy_rows(ROWS), compute_loss_func=max
        )


def test_training_without_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="train_dataset: has no rows"):
        trainer_for(tmp_path, tiny_model(), [])
    with pytest.raises(InputError, match="train_dataset: is missing"):
        trainer_for(tmp_path, tiny_model(), None).train()
