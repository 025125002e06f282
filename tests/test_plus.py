"""The recipe sharcs+: what every step minimises, recomputed from the outputs; and what a run leaves behind."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sharcs.config import RoutingPolicy
from sharcs.errors import InputError
from sharcs.hardness import narrowest_sure
from sharcs.losses import divergence, router_loss, teacher_loss, true_class_probability
from sharcs.training_arguments import RECIPES, SharcsTrainingArguments
from tiny import arguments, collate, rows_of, tiny_model, toy_rows, trainer_for

ROWS, EPOCHS = 44, 3
PLUS = {"recipe": "sharcs+", "window": None, "bands": None, "num_train_epochs": EPOCHS, "importance_samples": 16}


class Seen:
    """Notes every training pass through a hook on the model."""

    def __init__(self, model):
        """Watch a model."""
        self.passes = []
        model.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, model, _args, kwargs, output):
        if model.training:
            self.passes.append((kwargs["input_ids"].clone(), kwargs["labels"].clone(), output))


@pytest.fixture(scope="module", params=[(0.25, 1.0), (0.25, 0.5, 1.0)])
def trained(request, tmp_path_factory):
    """One run, watched."""
    model = tiny_model(widths=request.param)
    seen = Seen(model)
    trainer = trainer_for(tmp_path_factory.mktemp("plus"), model, toy_rows(ROWS), **PLUS, router_loss_weight=0.5)
    trainer.train()
    return trainer, seen


def slow_loss(output, labels):
    """The step's loss, in plain sums over samples and classes."""
    probabilities = output.width_logits.double().softmax(-1).tolist()
    full = probabilities[-1]
    total = 0.0
    for index, of_width in enumerate(probabilities):
        for row, label, teacher in zip(of_width, labels.tolist(), full, strict=True):
            total -= torch.tensor(row[label]).log().item() / len(labels)
            if index < len(probabilities) - 1:
                total += sum(t * (torch.tensor(t / s).log().item()) for t, s in zip(teacher, row, strict=True)) / len(
                    labels
                )
    scores = output.router_logits.double().sigmoid().tolist()
    router = 0.0
    for sample, label in enumerate(labels.tolist()):
        sure = [index for index, of_width in enumerate(probabilities) if of_width[sample][label] >= 0.8]
        narrowest = sure[0] if sure else len(probabilities) - 1
        for index, score in enumerate(scores[sample]):
            target, score = float(index == narrowest), torch.tensor(score)
            router -= target * score.log().item() + (1 - target) * (1 - score).log().item()
    return total + 0.5 * router / len(labels) / len(probabilities)


def test_every_step_trains_every_width_with_the_full_network_as_teacher(trained):
    trainer, seen = trained
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    expected = [slow_loss(output, labels) for _, labels, output in seen.passes]
    assert logged == pytest.approx(expected, rel=1e-4)


def test_the_router_learns_ten_times_faster_than_the_rest(trained):
    trainer, _ = trained
    router = {id(parameter) for parameter in trainer.model.tail.router.parameters()}
    rates = {True: set(), False: set()}
    count = 0
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            rates[id(parameter) in router].add(group["initial_lr"])
            count += 1
    assert rates == {True: {10 * 3e-3}, False: {3e-3}}
    assert count == len(list(trainer.model.parameters()))


def test_the_router_teaches_nothing_to_the_layers_before_it():
    model = tiny_model()
    batch = collate(toy_rows(8))
    model(**batch, all_widths=True).router_logits.sum().backward()
    assert all(p.grad is not None for p in model.tail.router.parameters())
    assert all(p.grad is None for n, p in model.named_parameters() if "router" not in n)


def test_labels_name_the_narrowest_width_that_is_sure():
    confidences = torch.tensor([[0.8, 0.1, 0.9], [0.79, 0.9, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.9]])
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert narrowest_sure(confidences).tolist() == expected
    assert confidences[0, 2] == pytest.approx(0.9)


def test_every_epoch_sees_every_row_once(trained):
    _, seen = trained
    steps = -(-ROWS // 8)
    assert len(seen.passes) == EPOCHS * steps
    orders = []
    for epoch in range(EPOCHS):
        batches = [tuple(rows_of(ids)) for ids, *_ in seen.passes[epoch * steps : (epoch + 1) * steps]]
        assert sorted(row for batch in batches for row in batch) == list(range(ROWS))
        orders.append(batches)
    assert orders[0] != orders[1] != orders[2]


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


def test_hidden_dimensions_are_reordered_before_training(tmp_path):
    """With a learning rate of zero only the reordering is left."""
    model = tiny_model()
    trainer = trainer_for(tmp_path, model, toy_rows(ROWS), **PLUS | {"learning_rate": 1e-30})
    before = model.encoder.bert.embeddings.word_embeddings.weight.detach().clone()
    batch = collate(toy_rows(ROWS))
    expected = model.eval()(**batch, width=1.0).logits.detach()
    trainer.train()
    found = model.eval()(**batch, width=1.0).logits.detach()
    after = model.encoder.bert.embeddings.word_embeddings.weight.detach()
    assert not torch.equal(before, after)
    assert torch.equal(before.sort(dim=1).values, after.sort(dim=1).values)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", [4, 6, 9])
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
    logits = torch.randn(2, 5, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1])
    full_loss = torch.nn.functional.cross_entropy(logits[-1], labels)
    teacher_loss(full_loss, logits, labels).backward()
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(logits[-1], labels), logits)[0]
    assert torch.equal(logits.grad[-1], expected[-1])
    assert logits.grad[0].abs().sum() > 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9)), min_size=1))
def test_divergence_equals_its_definition(rows):
    rows = torch.tensor(rows, dtype=torch.float64)
    student, teacher = rows[:, :2], rows[:, 2:]
    p, q = teacher.softmax(1), student.softmax(1)
    expected = (p * (p / q).log()).sum() / len(rows)
    assert divergence(student, teacher).item() == pytest.approx(expected.item(), abs=1e-4)


def test_probability_of_the_true_class_of_several_widths():
    logits = torch.tensor([[[0.0, 0.0]], [[100.0, 0.0]]])
    assert true_class_probability(logits, torch.tensor([0])).tolist() == [[0.5], [1.0]]
    assert true_class_probability(logits[0], torch.tensor([1])).tolist() == [0.5]


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
