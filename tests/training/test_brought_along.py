"""What people bring along every day works, or is refused in one line before the first step."""

import datasets
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from helpers.tiny import arguments, collate, tiny_encoder, tiny_model, toy_rows
from sharcs import SharcsConfig, SharcsForSequenceClassification
from sharcs.errors import InputError
from sharcs.training.arguments import PAPER, PLUS, RECIPES
from sharcs.training.paper import PaperTrainer
from sharcs.training.subnetworks import learning_parameters
from training.test_settings import build, each_recipe


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


@pytest.mark.parametrize("recipe", [PLUS, pytest.param(PAPER, marks=pytest.mark.extended)])
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
