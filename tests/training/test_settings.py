"""Every setting of transformers' training is passed on, has a meaning of ours, or is refused at the start."""

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from helpers.tiny import TRAINERS, arguments, collate, tiny_encoder, tiny_model, toy_rows
from sharcs import SharcsConfig, SharcsForSequenceClassification
from sharcs.errors import InputError
from sharcs.training.arguments import PAPER, PLUS, RECIPES, PaperTrainingArguments, SharcsTrainingArguments
from sharcs.training.paper import PaperTrainer
from sharcs.training.settings import OWN, PASSED_ON, REFUSED
from sharcs.training.subnetworks import learning_parameters
from sharcs.training.trainer import SharcsTrainer

SHORT = {PLUS: {"num_train_epochs": 1, "subnetwork_epochs": 1}, PAPER: {"num_train_epochs": 2, "window": 1}}
each_recipe = pytest.mark.parametrize("recipe", [PLUS, PAPER])


def build(folder, recipe, *, rows=None, model=None, args=None, **more):
    """Build a trainer; what ``Trainer`` has no argument for is a setting."""
    own = {name: more.pop(name) for name in list(more) if name in inspect.signature(Trainer).parameters}
    return TRAINERS[recipe](
        model=model or tiny_model(weights=RECIPES[recipe].weights),
        args=args or arguments(folder, recipe=recipe, **SHORT[recipe] | more),
        train_dataset=toy_rows(16) if rows is None else rows,
        data_collator=collate,
        **own,
    )


def names_of_transformers():
    return {field.name for field in fields(TrainingArguments)} | set(inspect.signature(Trainer).parameters)


# The table


def test_every_setting_stands_in_the_table():
    """A new one of transformers' fails here, until somebody has looked at it."""
    assert set(PASSED_ON) | set(OWN) | set(REFUSED) == names_of_transformers()
    assert not set(PASSED_ON) & (set(OWN) | set(REFUSED))
    both = set(OWN) & set(REFUSED)
    assert both == {name for name in both if len(REFUSED[name][0]) == 1}, "refused by all, and has a meaning"


VALUES = {
    "max_steps": 5,
    "label_smoothing_factor": 0.1,
    "compute_loss_func": max,
    "fsdp": True,
    "deepspeed": {"zero_optimization": {"stage": 0}},
}


@pytest.mark.parametrize(("name", "recipe"), [(name, recipe) for name, (by, _) in REFUSED.items() for recipe in by])
def test_what_is_refused_is_refused_by_name_with_the_remedy(tmp_path, name, recipe):
    if name in ("fsdp", "deepspeed", "parallelism_config", "push_to_hub", "max_steps"):
        # transformers asks for packages, processes or the network at once.
        args = arguments(tmp_path, recipe=recipe)
        setattr(args, name, VALUES.get(name, True))
        more = {"args": args}
    else:
        more = {name: VALUES.get(name, True)}
    with pytest.raises(InputError) as caught:
        build(tmp_path, recipe, **more)
    assert str(caught.value) == f"{name}: {REFUSED[name][1]}"


def test_names_of_the_arguments_are_those_of_transformers():
    for trainer in (SharcsTrainer, PaperTrainer):
        assert list(inspect.signature(trainer).parameters) == list(inspect.signature(Trainer).parameters)


# What people bring along: it works, or is refused in one line


@each_recipe
def test_plain_arguments_get_the_recipes_defaults(tmp_path, recipe):
    args = TrainingArguments(
        str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, use_cpu=True, save_strategy="no"
    )
    before = dict(vars(args))
    trainer = build(tmp_path, recipe, args=args)
    assert trainer.args.num_train_epochs == 1
    assert trainer.args.importance_samples == 1024
    assert getattr(trainer.args, "subnetwork_epochs", 8) == 8
    assert getattr(trainer.args, "window", 3) == 3
    trainer.args.subnetwork_epochs = 1
    trainer.train()
    assert vars(args) == before


@each_recipe
def test_no_arguments_are_the_defaults(tmp_path, recipe, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = TRAINERS[recipe](
        model=tiny_model(weights=RECIPES[recipe].weights), train_dataset=toy_rows(8), data_collator=collate
    )
    assert trainer.args.num_train_epochs == RECIPES[recipe].epochs
    assert trainer.args.output_dir == "tmp_trainer"


@each_recipe
def test_arguments_of_the_other_recipe_are_refused(tmp_path, recipe):
    other = {PLUS: PaperTrainingArguments, PAPER: SharcsTrainingArguments}[recipe]
    with pytest.raises(InputError, match=f"args: {other.__name__} are those of recipe"):
        build(tmp_path, recipe, args=other(str(tmp_path), use_cpu=True))


@each_recipe
def test_a_model_of_the_other_recipe_is_refused_with_the_trainer_for_it(tmp_path, recipe):
    weights = {PLUS: "shared", PAPER: "own"}[recipe]
    other = {PLUS: "PaperTrainer", PAPER: "SharcsTrainer"}[recipe]
    with pytest.raises(InputError, match=f"weights='{weights}'; train it with {other}, or wrap"):
        build(tmp_path, recipe, model=tiny_model(weights=weights))
    with pytest.raises(InputError, match=f"train it with {other}"):
        TRAINERS[recipe](model_init=lambda: tiny_model(weights=weights), args=arguments(tmp_path, recipe=recipe))


@each_recipe
def test_a_plain_model_is_refused(tmp_path, recipe):
    with pytest.raises(InputError, match="BertForSequenceClassification and not routed; wrap its encoder"):
        build(tmp_path, recipe, model=tiny_encoder())


def stream():
    yield from toy_rows(16)


class Stream(torch.utils.data.IterableDataset):
    """A stream of torch's."""

    def __iter__(self):
        """Stream."""
        return stream()


@each_recipe
@pytest.mark.parametrize("more", [{}, {"max_steps": 3}], ids=["epochs", "max_steps"])
def test_streaming_data_is_refused_in_one_line(tmp_path, recipe, more):
    if recipe == PLUS and more:
        return  # refused itself
    for rows in (Stream(), datasets.IterableDataset.from_generator(stream)):
        with pytest.raises(InputError, match="train_dataset: streaming data"):
            build(tmp_path, recipe, rows=rows, **more)


@each_recipe
@pytest.mark.parametrize("task", ["column", "unlabelled", "both"])
def test_labels_that_transformers_trains_with_train_here(tmp_path, recipe, task):
    rows = toy_rows(16)
    for number, row in enumerate(rows):
        if task != "column" and number % 3 == 0:
            row["labels"] = -100
        if task != "unlabelled":
            row["labels"] = [row["labels"]]
    trainer = build(tmp_path, recipe, rows=rows, eval_dataset=rows, eval_strategy="epoch")
    trainer.train()
    assert all(value.isfinite().all() for value in trainer.model.parameters())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(0 < loss < 10 for loss in losses)


@each_recipe
@pytest.mark.parametrize(("label", "message"), [(2, "row 6: its label is 2"), (-1, "row 6: its label is -1")])
def test_labels_out_of_range_are_refused_before_the_first_step(tmp_path, recipe, label, message):
    rows = toy_rows(16)
    rows[5]["labels"] = label
    with pytest.raises(InputError, match=message):
        build(tmp_path, recipe, rows=rows)
    with pytest.raises(InputError, match="all its labels are -100"):
        build(tmp_path, recipe, rows=[row | {"labels": -100} for row in rows])


class Full:
    """Runs out of memory above some rows, as a hook on the encoder."""

    def __init__(self, most):
        """Take that many."""
        self.most, self.sizes = most, []

    def __call__(self, _module, _args, kwargs):
        """Look at a batch."""
        rows = len(kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"])
        if rows > self.most:
            raise RuntimeError("CUDA out of memory.")
        self.sizes.append(rows)


@each_recipe
def test_the_batch_size_is_found(tmp_path, recipe):
    model, full = tiny_model(weights=RECIPES[recipe].weights), Full(4)
    model.encoder.register_forward_pre_hook(full, with_kwargs=True)
    trainer = build(tmp_path, recipe, model=model, auto_find_batch_size=True, importance_samples=16)
    before = [p.detach().clone() for kind in learning_parameters(model).values() for p in kind]
    trainer.train()
    assert max(full.sizes) == 4
    assert trainer._train_batch_size <= 4
    after = [p for kind in learning_parameters(model).values() for p in kind]
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))


@each_recipe
def test_activations_are_checkpointed_and_nothing_else_changes(tmp_path, recipe):
    weights = []
    for more in ({}, {"activation_checkpointing": True}):
        trainer = build(tmp_path, recipe, **more)
        calls = []
        layer = trainer.model.encoder.base_model.get_submodule("encoder").layer[0]
        layer.attention.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        trainer.train()
        weights.append((len(calls), trainer.model.state_dict()))
    (plain_calls, plain), (calls, checkpointed) = weights
    assert calls > plain_calls
    assert all(torch.allclose(checkpointed[name], value, atol=1e-5) for name, value in plain.items())


@each_recipe
def test_batches_may_be_dropped_if_they_are_not_full(tmp_path, recipe):
    sizes = []
    trainer = build(tmp_path, recipe, rows=toy_rows(20), dataloader_drop_last=True)
    trainer.model.register_forward_pre_hook(
        lambda module, _, kwargs: sizes.append(len(kwargs["input_ids"])) if module.training else None,
        with_kwargs=True,
    )
    trainer.train()
    assert set(sizes) == {8}


@pytest.mark.filterwarnings("default::FutureWarning")  # peft's, of transformers
def test_adapters_are_refused_before_and_after_wrapping(tmp_path):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"])
    for recipe in (PLUS, PAPER):
        wrapped = peft.get_peft_model(tiny_model(weights=RECIPES[recipe].weights), lora)
        with pytest.raises(InputError, match=r"with adapters.*merge_and_unload"):
            build(tmp_path, recipe, model=wrapped)
        encoder = tiny_encoder()
        adapted = peft.get_peft_model(encoder, lora)
        config = SharcsConfig(encoder=encoder.config, router_layer=1, weights=RECIPES[recipe].weights)
        for with_adapters in (adapted, encoder):
            with pytest.raises(InputError):
                SharcsForSequenceClassification(config, encoder=with_adapters)


@pytest.mark.filterwarnings("default::FutureWarning")
def test_the_remedy_for_adapters_works(tmp_path):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
    merged = peft.get_peft_model(tiny_encoder(), lora).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    model = SharcsForSequenceClassification.from_encoder(tmp_path / "merged", router_layer=1)
    build(tmp_path, PLUS, model=model, num_train_epochs=0).train()
    batch = collate(toy_rows(8))
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch, width=1.0).logits, plain(**batch).logits)


class Other(PaperTrainer):
    """A loss of its own."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """Compute the model's."""
        return model(**inputs).loss


def test_a_loss_of_a_subclass_is_refused_by_the_papers_recipe(tmp_path):
    with pytest.raises(InputError, match=r"Other\.compute_loss: the loss is the paper's; give class_weights"):
        Other(model=tiny_model(), args=arguments(tmp_path), train_dataset=toy_rows(8), data_collator=collate)


def test_two_losses_are_refused(tmp_path):
    with pytest.raises(InputError, match="class_weights, label_smoothing_factor: each is a loss of its own"):
        build(tmp_path, PLUS, class_weights="balanced", label_smoothing_factor=0.1)


def test_a_model_init_is_reordered_and_trained_by_the_papers_recipe(tmp_path):
    trainer = PaperTrainer(
        model_init=lambda: tiny_model(),
        args=arguments(tmp_path, num_train_epochs=1, importance_samples=16, learning_rate=0.0),
        train_dataset=toy_rows(16),
        data_collator=collate,
    )
    trainer.train()
    untouched = tiny_model().tail.layers[0].intermediate.dense.weight
    found = trainer.model.tail.layers[0].intermediate.dense.weight
    assert not torch.equal(found, untouched)
    assert torch.equal(found.sum(1).sort().values, untouched.sum(1).sort().values)


# More than one process

SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from helpers.tiny import tiny_model, toy_rows, trainer_for
from sharcs.errors import InputError
try:
    trainer_for({folder!r}, tiny_model(weights={weights!r}), toy_rows(16), recipe={recipe!r}, ddp_backend="gloo")
except InputError as error:
    print("REFUSED", error)
"""


@each_recipe
def test_several_processes_are_refused_before_the_first_step(tmp_path, recipe):
    tests = str(Path(__file__).parents[1])
    script = tmp_path / "train.py"
    weights = RECIPES[recipe].weights
    script.write_text(SCRIPT.format(paths=[tests], folder=str(tmp_path), weights=weights, recipe=recipe))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    lines = [line for line in done.stdout.splitlines() if "REFUSED" in line]
    assert len(lines) == 2, done.stderr
    assert all(
        "2 processes or GPUs: a training runs in one process on one device; start it" in line for line in lines
    )
