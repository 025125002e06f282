"""The recipe sharcs+: what every step minimises, recomputed from the outputs; and what a run leaves behind."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import TrainerCallback

from helpers.own import own_parameters, with_own_weights
from helpers.tiny import (
    TASKS,
    arguments,
    collate,
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
from sharcs.tasks.losses import SINGLE_LABEL, Task, router_loss
from sharcs.training.arguments import RECIPES, SharcsTrainingArguments
from sharcs.training.hardness import narrowest_sure

ROWS, EPOCHS, NARROW_EPOCHS = 44, 2, 3
STEPS = -(-ROWS // 8)
ONE_LABEL = Task(SINGLE_LABEL)
PLUS = {
    "recipe": "sharcs+",
    "window": None,
    "bands": None,
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
        if model.training or kwargs.get("narrow_only"):
            self.passes.append((kwargs["input_ids"].clone(), kwargs["labels"].clone(), output))


class Rates(TrainerCallback):
    """Notes the learning rate of every group at every update."""

    def __init__(self):
        """Start empty."""
        self.found = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        """Note them."""
        self.found.append([group["lr"] for group in optimizer.param_groups])


def full_weights(model):
    """Copy everything but sub-networks and router."""
    own = ("private", "router")
    return {n: p.detach().clone() for n, p in model.named_parameters() if not any(part in n for part in own)}


@pytest.fixture(scope="module", params=[(0.25, 1.0), (0.25, 0.5, 1.0)])
def trained(request, tmp_path_factory):
    """One run, watched."""
    model = tiny_model(widths=request.param)
    seen = Seen(model)
    trainer = trainer_for(tmp_path_factory.mktemp("plus"), model, toy_rows(ROWS), **PLUS, router_loss_weight=0.5)
    trainer.train()
    return trainer, seen


def full_logits_of(model, rows=None):
    """Answers of the full network, by row."""
    with torch.no_grad():
        return model.eval()(**collate(rows or toy_rows(ROWS)), width=1.0).logits


def slow_loss(output, labels, teacher):
    """The loss of a step of the second phase, in plain sums over samples and classes."""
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
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    first = [output.loss.item() for _, _, output in seen.passes[: EPOCHS * STEPS]]
    teacher = full_logits_of(trainer.model)  # the second phase didn't change it
    then = [slow_loss(output, labels, teacher[rows_of(ids)]) for ids, labels, output in seen.passes[EPOCHS * STEPS :]]
    assert logged == pytest.approx(first + then, rel=1e-4)
    assert len(logged) == (EPOCHS + NARROW_EPOCHS) * STEPS


@pytest.mark.parametrize("task", TASKS)
def test_the_full_network_is_that_of_fine_tuning_alone_bit_for_bit(tmp_path, task):
    """Against the plain encoder, trained on the same batches and random numbers by a loop of its own."""
    rows, (problem_type, count) = task_rows(task, ROWS), TASKS[task]
    model, plain = task_model(task), tiny_encoder(labels=count, problem_type=problem_type)
    seen, rates, states = Seen(model), Rates(), []
    model.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()) if model.training else None)
    trainer_for(tmp_path, model, rows, callbacks=[rates], **PLUS | {"max_grad_norm": 0.0}).train()
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=0.0, fused=True)
    plain.train()
    for step, (ids, labels, _) in enumerate(seen.passes[: EPOCHS * STEPS]):
        optimizer.param_groups[0]["lr"] = rates.found[step][0]
        torch.set_rng_state(states[step])
        plain(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found, batch = full_logits_of(model, rows), collate(rows)
    with torch.no_grad():
        assert torch.equal(found, plain.eval()(**batch).logits)


def test_in_the_second_phase_dropout_is_on_in_the_sub_networks_alone(tmp_path):
    model, found = tiny_model(), []

    def note(model, _args, kwargs):
        if kwargs.get("narrow_only"):
            own = set(model.tail.narrow.modules())
            found.append({(module in own, module.training) for module in model.modules()})

    model.register_forward_pre_hook(note, with_kwargs=True)
    trainer_for(tmp_path, model, toy_rows(ROWS), **PLUS).train()
    assert found == [{(True, True), (False, False)}] * (NARROW_EPOCHS * STEPS)


def test_an_encoder_that_is_fine_tuned_already_is_left_as_it_is(tmp_path):
    model = tiny_model()
    before, batch = full_weights(model), collate(toy_rows(ROWS))
    narrow = tiny_model()
    narrow = with_own_weights(narrow)
    trainer_for(tmp_path, model, toy_rows(ROWS), **PLUS | {"num_train_epochs": 0}).train()
    assert all(torch.equal(value, before[name]) for name, value in full_weights(model).items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        answers = [m.eval()(**batch, width=0.25).logits for m in (model, narrow)]
    assert not torch.allclose(*answers, atol=1e-3)


def test_sub_networks_and_router_learn_faster_than_the_rest(trained):
    trainer, _ = trained
    tail = trainer.model.tail
    kinds = {id(p): "router" for p in tail.router.parameters()} | {id(p): "narrow" for p in tail.narrow.parameters()}
    rates, count = {}, 0
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            rates.setdefault(kinds.get(id(parameter), "full"), set()).add(group["initial_lr"])
            count += 1
    assert rates == {"full": {3e-3}, "narrow": {2 * 3e-3}, "router": {10 * 3e-3}}
    assert count == len(list(trainer.model.parameters()))


def test_each_phase_has_the_whole_schedule(tmp_path):
    """Linear decay to zero, twice: each part's rate over the updates of its own epochs."""
    model = tiny_model()
    trainer = trainer_for(tmp_path, model, toy_rows(ROWS), callbacks=[rates := Rates()], **PLUS)
    trainer.train()
    first, second = EPOCHS * STEPS, NARROW_EPOCHS * STEPS
    router = set(model.tail.router.parameters())
    groups = trainer.optimizer.param_groups
    of_router = next(i for i, group in enumerate(groups) if group["params"][0] in router)
    of_full = [of_groups[0] for of_groups in rates.found]
    assert of_full[:first] == pytest.approx([3e-3 * (1 - step / first) for step in range(first)])
    assert of_full[first:] == [0.0] * second
    narrow = [of_groups[of_router] for of_groups in rates.found[first:]]
    assert narrow == pytest.approx([3e-2 * (1 - step / second) for step in range(second)])


def test_the_second_phase_gives_gradients_to_sub_networks_and_router_alone():
    model = tiny_model()
    model = with_own_weights(model)
    output = model.eval()(**collate(toy_rows(8)), all_widths=True, narrow_only=True)
    assert output.logits is None
    (output.router_logits.sum() + output.width_logits.sum()).backward()
    below = [p for n, p in model.named_parameters() if "embeddings" in n or ".layer.0." in n or ".layers." in n]
    assert all(p.grad is not None for p in [*model.tail.router.parameters(), *own_parameters(model)])
    assert all(p.grad is None for p in below if not any(p is own for own in own_parameters(model)))


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
    model = tiny_model()
    model.config.policy = {"cost_weight": 0.25}
    trainer_for(tmp_path, model, toy_rows(16), **PLUS).train()
    assert model.config.routing_policy == RoutingPolicy(0.25)


@pytest.mark.parametrize("step", [4, 6, 9, 12, 15, 18])
def test_a_resumed_run_ends_like_one_that_was_not_interrupted(tmp_path, step):
    saving = {"save_strategy": "steps", "save_steps": 1}

    def start(folder):
        return trainer_for(folder, tiny_model(), toy_rows(ROWS), **PLUS | saving)

    torch.manual_seed(0)
    whole = start(tmp_path / "whole")
    whole.train()
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "part" / f"checkpoint-{step}")
    torch.manual_seed(1)
    again = start(tmp_path / "part")
    again.train(resume_from_checkpoint=True)
    last = f"checkpoint-{whole.state.global_step}"
    for name, value in load_file(tmp_path / "whole" / last / "model.safetensors").items():
        assert torch.equal(value, load_file(tmp_path / "part" / last / "model.safetensors")[name]), name
    assert again.model.config.routing_policy == whole.model.config.routing_policy


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
    ("given_settings", "recipe", "epochs", "rate", "window"),
    [
        ({}, "sharcs+", 5, 5e-5, None),
        ({"recipe": "paper"}, "paper", 10, 2e-5, 3),
        ({"window": 2}, "paper", 10, 2e-5, 2),
        ({"bands": {0.25: (0.5, 1.0)}, "num_train_epochs": 4}, "paper", 4, 2e-5, 3),
        ({"recipe": "sharcs+", "learning_rate": 1e-3}, "sharcs+", 5, 1e-3, None),
    ],
)
def test_recipes_and_their_defaults(tmp_path, given_settings, recipe, epochs, rate, window):
    found = SharcsTrainingArguments(str(tmp_path), use_cpu=True, **given_settings)
    assert (found.recipe, found.num_train_epochs, found.learning_rate, found.window) == (recipe, epochs, rate, window)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"recipe": "sharcs"}, "choose sharcs\\+ or paper"),
        ({"recipe": "sharcs+", "window": 2}, "window, band: recipe sharcs\\+ has none"),
        ({"recipe": "sharcs+", "bands": {0.25: (0.5, 1.0)}}, "window, band: recipe sharcs\\+ has none"),
    ],
)
def test_recipes_that_do_not_exist_or_fit(tmp_path, given_settings, message):
    with pytest.raises(InputError, match=message):
        arguments(tmp_path, **{"recipe": None, "window": None, "bands": None} | given_settings)
