"""What ``forward`` takes, for each public class: by its signature, as RoutingKwargs says, and beyond that."""

import inspect

import datasets
import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.utils.generic import find_labels

import sharcs
from helpers import tiny, tokens
from sharcs.errors import InputError
from sharcs.model.outputs import RoutingKwargs
from sharcs.subnetworks.fast import FastLayers
from sharcs.training.base import ROUTING

TEXT = {"input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"}
CLASSES = {
    sharcs.SharcsForSequenceClassification: (TEXT, ["labels"]),
    sharcs.SharcsForTokenClassification: (TEXT, ["labels"]),
    sharcs.SharcsForQuestionAnswering: (TEXT, ["start_positions", "end_positions"]),
    sharcs.SharcsForImageClassification: ({"pixel_values"}, ["labels"]),
    sharcs.SharcsForAudioClassification: ({"input_values", "attention_mask"}, ["labels"]),
}


@pytest.fixture(scope="module")
def model():
    """A routed BERT in evaluation mode, of three widths, with weights of their own."""
    return tiny.tiny_model(widths=(0.25, 0.5, 1.0), weights="own").eval()


@pytest.fixture(scope="module")
def batch():
    return tiny.collate(tiny.toy_rows(6))


@pytest.mark.parametrize("routed_class", CLASSES)
def test_a_signature_names_inputs_and_labels(routed_class):
    inputs, labels = CLASSES[routed_class]
    parameters = inspect.signature(routed_class.forward).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    assert named == {"self", *inputs, *labels}
    assert find_labels(routed_class) == labels


def test_what_is_documented_is_what_is_taken(model):
    taken = list(inspect.signature(type(model)._forward).parameters.values())
    names = {parameter.name for parameter in taken if parameter.kind is not parameter.VAR_KEYWORD}
    assert set(RoutingKwargs.__annotations__) == names - {"self", "inputs", "labels"} | {"return_dict"}
    assert {"width", "width_index", "widths"} == ROUTING


@pytest.mark.parametrize("kind", ["sequences", *tokens.KINDS])
def test_transformers_trainer_drops_columns_that_are_no_inputs(tmp_path, kind):
    routed = tiny.tiny_model() if kind == "sequences" else tokens.toy_model(kind)
    inputs, labels = CLASSES[type(routed)]
    columns = [*sorted(inputs), *labels, "sentence", "width", "hidden"]
    rows = datasets.Dataset.from_dict({name: [0, 1] for name in columns})
    trainer = Trainer(model=routed, args=TrainingArguments(tmp_path, report_to=[]), train_dataset=rows)
    assert set(trainer._remove_unused_columns(rows).column_names) == {*inputs, *labels}


def test_a_keyword_that_nobody_knows_reaches_the_encoder(model, batch):
    seen = []

    def take(_module, args, kwargs):
        seen.append(kwargs.pop("brightness"))
        return args, kwargs

    with model.encoder.register_forward_pre_hook(take, with_kwargs=True), torch.no_grad():
        model(**batch, brightness=0.5)
        model.run_trunk(**batch, brightness=0.25)
        model(**batch, widths="narrow", brightness=0.125)
    assert seen == [0.5, 0.25, 0.125, 0.125, 0.125]


def test_widths_are_all_or_narrow(model, batch):
    with pytest.raises(InputError, match=r"^widths 'both': has to be 'all', 'narrow' or 'front'[^\n]*$"):
        model(**batch, widths="both")
    with pytest.raises(InputError, match=r"^widths \(0.25, 1.0\): has to be 'all', 'narrow' or 'front'[^\n]*$"):
        model(**batch, widths=(0.25, 1.0))


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"width": 0.25}, {"widths": "all"}, {"widths": "narrow"}], ids=str)
def test_the_router_runs_once_a_batch(model, batch, options):
    calls = []
    with model.router.register_forward_hook(lambda *_: calls.append(1)):
        model(**batch, **options)
    assert calls == [1]


@torch.no_grad()
def test_narrow_widths_are_all_but_the_full_one(model, batch):
    narrow, routed = model(**batch, widths="narrow"), model(**batch)
    alone = torch.stack([model(**batch, width=width).logits for width in (0.25, 0.5)])
    torch.testing.assert_close(narrow.width_logits, alone)
    torch.testing.assert_close(narrow.router_logits, routed.router_logits)
    assert narrow.logits is narrow.loss is None


@torch.no_grad()
def test_whether_fast_layers_are_current_is_asked_once_a_pass(batch, monkeypatch):
    model, asked, are_current = tiny.tiny_model(widths=(0.25, 0.5, 1.0)).eval(), [], FastLayers.are_current

    def noted(layers):
        asked.append(1)
        return are_current(layers)

    model.prepare_for_inference()
    monkeypatch.setattr(FastLayers, "are_current", noted)
    model(**batch, width_index=torch.tensor([0, 1, 2, 0, 1, 2]))
    assert asked == [1]
    model(**batch, widths="all")
    assert asked == [1] * (1 + 3)  # as many passes as widths


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"all_widths": True}, "widths='all'"),
        ({"all_widths": True, "narrow_only": True}, "widths='all'"),
        ({"trunk_only": True}, "run_trunk"),
        ({"hidden": torch.zeros(1)}, "run_tail"),
    ],
)
def test_keywords_of_earlier_versions_are_refused(model, batch, old, new):
    with pytest.raises(InputError, match=rf"^\w+: is called otherwise now; write {new}"):
        model(**batch, **old)
