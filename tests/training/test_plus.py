"""The recipe sharcs+: what every step minimises, recomputed from the outputs; and what a run leaves behind."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainerCallback, TrainingArguments

from helpers.tiny import (
    TASKS,
    arguments,
    collate,
    logged_losses,
    rows_of,
    task_model,
    task_rows,
    tiny_encoder,
    tiny_model,
    toy_rows,
    trainer_for,
)
from sharcs.config import RoutingPolicy
from sharcs.errors import InputError
from sharcs.tasks.base import router_loss
from sharcs.tasks.classification import Task
from sharcs.training.arguments import RECIPES, PaperTrainingArguments, SharcsTrainingArguments, recipe_of
from sharcs.training.hardness import narrowest_sure
from sharcs.training.subnetworks import learning_parameters, narrow_networks
from sharcs.training.trainer import SharcsTrainer
from sharcs_runtime.scores import SINGLE_LABEL

ROWS, EPOCHS, NARROW_EPOCHS = 44, 2, 3
STEPS = -(-ROWS // 8)
ONE_LABEL = Task(SINGLE_LABEL)
PLUS = {
    "recipe": "sharcs+",
    "num_train_epochs": EPOCHS,
    "subnetwork_epochs": NARROW_EPOCHS,
    "importance_samples": 16,
}


class Seen:
    """Notes every pass of a training step through a hook on the model."""

    def __init__(self, model):
        """Watch a model."""
        self.passes = []
        model.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, model, _args, kwargs, output):
        if model.training or kwargs.get("widths") == "narrow":
            self.passes.append((kwargs["input_ids"].clone(), kwargs["labels"].clone(), output))


class Rates(TrainerCallback):
    """Notes the learning rate of every group at every update."""

    def __init__(self):
        """Start empty."""
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Note them."""
        self.found.append([group["lr"] for group in optimizer.param_groups])


def own_model(**settings):
    """A model whose narrow networks have weights of their own."""
    return tiny_model(weights="own", **settings)


def narrow_parameters(model):
    return learning_parameters(model)["narrow"]


def full_weights(model):
    """Copy everything but sub-networks and router."""
    later = {id(p) for kind in learning_parameters(model).values() for p in kind}
    return {n: p.detach().clone() for n, p in model.named_parameters() if id(p) not in later}


@pytest.fixture(scope="module", params=[(0.25, 1.0), (0.25, 0.5, 1.0)])
def trained(request, tmp_path_factory):
    """One run, watched."""
    model = own_model(widths=request.param)
    seen = Seen(model)
    trainer = trainer_for(tmp_path_factory.mktemp("plus"), model, toy_rows(ROWS), **PLUS, router_loss_weight=0.5)
    trainer.train()
    return trainer, seen


def full_logits_of(model, rows=None):
    """Answers of the full network, by row."""
    with torch.no_grad():
        return model.eval()(**collate(rows or toy_rows(ROWS)), width=1.0).logits


def slow_loss(output, labels, teacher):
    """The loss of a step of the second run, in plain sums over samples and classes."""
    probabilities = output.width_logits.double().softmax(-1).tolist()
    full = teacher.double().softmax(-1).tolist()
    total = 0.0
    for of_width in probabilities:
        for row, label, target in zip(of_width, labels.tolist(), full, strict=True):
            total -= torch.tensor(row[label]).log().item() / len(labels)
            total += sum(t * torch.tensor(t / s).log().item() for t, s in zip(target, row, strict=True)) / len(labels)
    scores = output.router_logits.double().sigmoid().tolist()
    router, count = 0.0, len(probabilities) + 1
    for sample, label in enumerate(labels.tolist()):
        sure = [index for index, of_width in enumerate(probabilities) if of_width[sample][label] >= 0.8]
        narrowest = sure[0] if sure else count - 1
        for index, score in enumerate(scores[sample]):
            target, score = float(index == narrowest), torch.tensor(score)
            router -= target * score.log().item() + (1 - target) * (1 - score).log().item()
    return total + 0.5 * router / len(labels) / count


def test_first_the_full_network_is_trained_and_then_the_narrow_ones_by_it(trained):
    trainer, seen = trained
    first = [output.loss.item() for _, _, output in seen.passes[: EPOCHS * STEPS]]
    teacher = full_logits_of(trainer.model)  # the second run didn't change it
    then = [slow_loss(output, labels, teacher[rows_of(ids)]) for ids, labels, output in seen.passes[EPOCHS * STEPS :]]
    assert logged_losses(trainer) == pytest.approx(first + then, rel=1e-4)
    assert len(first + then) == (EPOCHS + NARROW_EPOCHS) * STEPS


PLAIN = {
    "by length": {},
    "random": {"train_sampling_strategy": "random"},
    "accumulated": {"gradient_accumulation_steps": 2, "train_sampling_strategy": "random", "data_seed": 3},
    "smoothed": {"label_smoothing_factor": 0.2, "lr_scheduler_type": "cosine", "warmup_steps": 3},
    "evaluated": {"eval_strategy": "epoch", "weight_decay": 0.1},
}


@pytest.mark.parametrize(
    ("task", "settings"),
    [*((task, {}) for task in TASKS), *(("one label", given) for given in PLAIN.values())],
    ids=[*TASKS, *PLAIN],
)
def test_the_full_network_is_that_of_transformers_trainer_bit_for_bit(tmp_path, task, settings):
    """Against the plain encoder, trained by ``transformers.Trainer`` with the same settings."""
    rows, (problem_type, count) = task_rows(task, ROWS), TASKS[task]
    model, plain = task_model(task, weights="own"), tiny_encoder(labels=count, problem_type=problem_type)
    ours = arguments(tmp_path / "ours", **PLUS | settings | {"subnetwork_epochs": 1, "importance_samples": 0})
    data = {"train_dataset": rows, "eval_dataset": rows[:16], "data_collator": collate}
    SharcsTrainer(model=model, args=ours, **data).train()
    known = {each.name for each in fields(TrainingArguments)}
    same = {name: value for name, value in vars(ours).items() if name in known} | {"output_dir": str(tmp_path)}
    torch.manual_seed(1)  # what ours is built with doesn't matter
    Trainer(model=plain, args=TrainingArguments(**same), **data).train()
    found = model.encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())
    with torch.no_grad():
        assert torch.equal(full_logits_of(model, rows), plain.eval()(**collate(rows)).logits)


def test_in_the_second_run_dropout_is_on_in_the_sub_networks_alone(tmp_path):
    model, found = own_model(), []

    def note(model, _args, kwargs):
        if kwargs.get("widths") == "narrow":
            own = {module for network in narrow_networks(model) for module in network.modules()}
            found.append(
                {(module in own, module.training) for module in model.modules() if list(module.parameters())}
            )

    model.register_forward_pre_hook(note, with_kwargs=True)
    trainer_for(tmp_path, model, toy_rows(ROWS), **PLUS).train()
    assert [states - {(False, False)} for states in found] == [{(True, True)}] * (NARROW_EPOCHS * STEPS)


def test_an_encoder_that_is_fine_tuned_already_is_left_as_it_is(tmp_path):
    model = own_model()
    before, batch = full_weights(model), collate(toy_rows(ROWS))
    narrow = own_model()
    trainer_for(tmp_path, model, toy_rows(ROWS), **PLUS | {"num_train_epochs": 0}).train()
    assert all(torch.equal(value, before[name]) for name, value in full_weights(model).items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        answers = [m.eval()(**batch, width=0.25).logits for m in (model, narrow)]
    assert not torch.allclose(*answers, atol=1e-3)


def test_sub_networks_and_router_learn_faster_than_the_rest(trained):
    trainer, _ = trained
    kinds = {id(p): kind for kind, of_kind in learning_parameters(trainer.model).items() for p in of_kind}
    rates, count = {}, 0
    for group in trainer.subnetwork_trainer.optimizer.param_groups:
        for parameter in group["params"]:
            rates.setdefault(kinds.get(id(parameter), "full"), set()).add(group["initial_lr"])
            count += 1
    assert rates == {"narrow": {2 * 3e-3}, "router": {10 * 3e-3}}
    assert count == len(kinds)


def test_each_run_has_the_whole_schedule(tmp_path):
    """Linear decay to zero, twice: each part's rate over the updates of its own epochs."""
    model = own_model()
    trainer = trainer_for(tmp_path, model, toy_rows(ROWS), callbacks=[rates := Rates()], **PLUS)
    trainer.train()
    first, second = EPOCHS * STEPS, NARROW_EPOCHS * STEPS
    router = set(learning_parameters(model)["router"])
    groups = trainer.subnetwork_trainer.optimizer.param_groups
    of_router = next(i for i, group in enumerate(groups) if group["params"] and group["params"][0] in router)
    of_full = [of_groups[0] for of_groups in rates.found[:first]]
    assert of_full == pytest.approx([3e-3 * (1 - step / first) for step in range(first)])
    found = [of_groups[of_router] for of_groups in rates.found[first:]]
    assert found == pytest.approx([3e-2 * (1 - step / second) for step in range(second)])


def test_the_second_run_gives_gradients_to_sub_networks_and_router_alone():
    model = own_model()
    output = model.eval()(**collate(toy_rows(8)), widths="narrow")
    assert output.logits is None
    (output.router_logits.sum() + output.width_logits.sum()).backward()
    later = {id(p) for kind in learning_parameters(model).values() for p in kind}
    below = [p for n, p in model.named_parameters() if "embeddings" in n or ".layer.0." in n or ".layers." in n]
    assert all(p.grad is not None for p in model.parameters() if id(p) in later)
    assert all(p.grad is None for p in below if id(p) not in later)


def test_labels_name_the_narrowest_width_that_is_sure():
    confidences = torch.tensor([[0.8, 0.1, 0.9], [0.79, 0.9, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.9]])
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert narrowest_sure(confidences).tolist() == expected
    assert confidences[0, 2] == pytest.approx(0.9)


def test_every_epoch_sees_every_row_once(trained):
    _, seen = trained
    orders = []
    for epoch in range(EPOCHS + NARROW_EPOCHS):
        batches = [tuple(rows_of(ids)) for ids, *_ in seen.passes[epoch * STEPS : (epoch + 1) * STEPS]]
        assert sorted(row for batch in batches for row in batch) == list(range(ROWS))
        orders.append(batches)
    assert len({str(order) for order in orders}) == len(orders)


def test_the_policy_starts_narrow_and_escalates(trained):
    trainer, _ = trained
    policy = trainer.model.config.routing_policy
    assert policy.escalates
    assert policy.cost_weight > 0


def test_a_policy_of_the_users_own_is_kept(tmp_path):
    model = own_model()
    model.config.policy = {"cost_weight": 0.25}
    trainer_for(tmp_path, model, toy_rows(16), **PLUS).train()
    assert model.config.routing_policy == RoutingPolicy(0.25)


def test_the_full_network_is_no_pupil_of_the_narrow_ones():
    narrow, teacher = torch.randn(2, 5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    ONE_LABEL.distillation_loss(narrow, teacher, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert teacher.grad is None
    assert (narrow.grad.abs().sum(dim=(1, 2)) > 0).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9)), min_size=1))
def test_divergence_equals_its_definition(rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    student, teacher = rows[:, :2], rows[:, 2:]
    p, q = teacher.softmax(1), student.softmax(1)
    expected = (p * (p / q).log()).sum() / len(rows)
    assert ONE_LABEL.divergence(student, teacher).item() == pytest.approx(expected.item(), abs=1e-4)


def test_probability_of_the_true_class_of_several_widths():
    logits = torch.tensor([[[0.0, 0.0]], [[100.0, 0.0]]])
    assert ONE_LABEL.confidence(logits, torch.tensor([0])).tolist() == [[0.5], [1.0]]
    assert ONE_LABEL.confidence(logits[0], torch.tensor([1])).tolist() == [0.5]


def test_router_loss_of_an_undecided_router_is_log_two():
    assert router_loss(torch.zeros(3, 2), torch.ones(3, 2)).item() == pytest.approx(0.6931, abs=1e-4)


# Choice of the recipe


@pytest.mark.parametrize(
    ("recipe", "depths"), [("paper", {12: 3, 6: 2, 4: 1, 2: 1}), ("sharcs+", {12: 2, 24: 4, 6: 1, 3: 1, 2: 1})]
)
def test_the_routers_place_by_recipe_and_depth(recipe, depths):
    assert {depth: RECIPES[recipe].router_layer(depth) for depth in depths} == depths


@pytest.mark.parametrize(
    ("kind", "given_settings", "epochs", "rate"),
    [
        (SharcsTrainingArguments, {}, 5, 5e-5),
        (SharcsTrainingArguments, {"learning_rate": 1e-3}, 5, 1e-3),
        (PaperTrainingArguments, {}, 10, 2e-5),
        (PaperTrainingArguments, {"bands": {0.25: (0.5, 1.0)}, "num_train_epochs": 4}, 4, 2e-5),
    ],
)
def test_recipes_and_their_defaults(tmp_path, kind, given_settings, epochs, rate):
    found = kind(str(tmp_path), use_cpu=True, **given_settings)
    assert (found.num_train_epochs, found.learning_rate) == (epochs, rate)
    assert getattr(found, "window", 3) == 3
    assert getattr(found, "subnetwork_epochs", 8) == 8


@pytest.mark.parametrize(
    ("given_settings", "recipe"),
    [((None, None, None), "sharcs+"), ((None, 2, None), "paper"), (("paper", None, None), "paper")],
)
def test_a_window_or_bands_name_the_papers_recipe(given_settings, recipe):
    assert recipe_of(*given_settings) == recipe


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        (("sharcs", None, None), "choose sharcs\\+ or paper"),
        (("sharcs+", 2, None), "window, band: recipe sharcs\\+ has none"),
        (("sharcs+", None, {0.25: (0.5, 1.0)}), "window, band: recipe sharcs\\+ has none"),
    ],
)
def test_recipes_that_do_not_exist_or_fit(given_settings, message):
    with pytest.raises(InputError, match=message):
        recipe_of(*given_settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"subnetwork_epochs": 0}, "subnetwork_epochs"),
        ({"num_train_epochs": 1.5}, "whole epochs"),
        ({"max_steps": 3}, "max_steps"),
    ],
)
def test_settings_of_sharcs_plus_out_of_range_are_refused_by_name(tmp_path, settings, name):
    with pytest.raises(InputError, match=name):
        arguments(tmp_path, **PLUS | settings)
