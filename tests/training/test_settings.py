"""Every setting of transformers' training is passed on, has a meaning of ours, or is refused at the start."""

import inspect
from dataclasses import fields

import pytest
from transformers import Trainer, TrainingArguments

from helpers.tiny import TRAINERS, arguments, collate, tiny_encoder, tiny_model, toy_rows
from sharcs.errors import InputError
from sharcs.training.arguments import PAPER, PLUS, RECIPES, PaperTrainingArguments, SharcsTrainingArguments
from sharcs.training.paper import PaperTrainer
from sharcs.training.settings import OWN, PASSED_ON, REFUSED
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
        of_trainer = list(inspect.signature(Trainer).parameters)
        assert list(inspect.signature(trainer).parameters) == [*of_trainer, "unlabelled_dataset"]


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


@each_recipe
def test_several_gpus_in_one_process_are_refused(tmp_path, recipe):
    args = arguments(tmp_path, recipe=recipe)
    args._n_gpu = 2
    with pytest.raises(InputError, match="2 GPUs in one process: a process trains on one; start one each"):
        build(tmp_path, recipe, args=args)
