"""The learned cut of the recipe sharcs+, against the plain cut, an explicit product and the FLOP counter."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from encoders import WIDTHS, load_routed, make_batch
from sharcs import SharcsForSequenceClassification
from sharcs.cost import flops
from tiny import tiny_model, toy_rows, trainer_for

LENGTHS = [4, 9, 1, 6]
PLUS = {"recipe": "sharcs+", "window": None, "bands": None, "num_train_epochs": 1}


def with_projections(path, shaken=True, **options):
    model = load_routed(path, **options)
    model.tail.add_projections()
    model.config.projection = True
    if shaken:
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.tail.projections.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("index", range(len(WIDTHS) - 1))
@torch.no_grad()
def test_a_new_projection_is_the_plain_cut(plain_path, index):
    plain, projected = load_routed(plain_path), with_projections(plain_path, shaken=False)
    projected.load_state_dict(plain.state_dict(), strict=False)
    batch = make_batch(plain.config.encoder, LENGTHS)
    assert torch.equal(plain(**batch, width=WIDTHS[index]).logits, projected(**batch, width=WIDTHS[index]).logits)


@pytest.mark.parametrize("index", range(len(WIDTHS) - 1))
@torch.no_grad()
def test_a_projection_replaces_the_first_dimensions(bert_path, index):
    """The same as a plain cut of a network whose layer k's output was multiplied before."""
    plain, projected = load_routed(bert_path), with_projections(bert_path)
    projected.tail.load_state_dict(plain.tail.state_dict(), strict=False)
    projection = projected.tail.projections[index]

    def multiplied(_module, inputs):
        rest = torch.zeros(*inputs[0].shape[:2], inputs[0].shape[2] - len(projection.bias))
        product = torch.einsum("btd,nd->btn", inputs[0], projection.weight) + projection.bias
        return (torch.cat([product, rest], dim=-1), *inputs[1:])

    batch = make_batch(plain.config.encoder, LENGTHS)
    projected.encoder.classifier.load_state_dict(plain.encoder.classifier.state_dict())
    expected_model = plain
    expected_model.tail.register_forward_pre_hook(multiplied)
    expected = expected_model(**batch, width=WIDTHS[index]).logits
    torch.testing.assert_close(projected(**batch, width=WIDTHS[index]).logits, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_full_width_is_untouched(plain_path):
    plain, projected = load_routed(plain_path), with_projections(plain_path)
    batch = make_batch(plain.config.encoder, LENGTHS)
    projected.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(**batch, width=1.0).logits, projected(**batch, width=1.0).logits)


@pytest.mark.parametrize("length", [1, 7, 30])
def test_its_cost_is_what_the_flop_counter_counts(plain_path, length):
    model = with_projections(plain_path, attn_implementation="eager")
    batch = make_batch(model.config.encoder, [length])
    cost = flops(model.cost_coefficients(), torch.tensor([length]))[0].tolist()
    for index, width in enumerate(WIDTHS):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**batch, width=width)
        assert cost[index] == counter.get_total_flops()


def test_it_is_saved_and_loaded(bert_path, tmp_path):
    model = with_projections(bert_path)
    model.save_pretrained(tmp_path)
    again = SharcsForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.projection
    batch = make_batch(model.config.encoder, LENGTHS)
    with torch.no_grad():
        for width in WIDTHS:
            assert torch.equal(model(**batch, width=width).logits, again(**batch, width=width).logits)


def test_it_gets_gradients_from_all_dimensions(bert_path):
    model = with_projections(bert_path)
    batch = make_batch(model.config.encoder, LENGTHS)
    F.cross_entropy(model(**batch, width=WIDTHS[0]).logits, torch.tensor([0, 1, 2, 0])).backward()
    assert (model.tail.projections[0].weight.grad.abs().sum(0) > 0).all()
    assert model.tail.projections[1].weight.grad is None


def test_a_model_with_random_weights_starts_with_the_plain_cut(bert_path):
    model = with_projections(bert_path)
    fresh = SharcsForSequenceClassification(model.config)
    for projection in fresh.tail.projections:
        assert torch.equal(projection.weight, torch.eye(*projection.weight.shape))
        assert not projection.bias.any()


def test_only_the_recipe_plus_has_one(tmp_path):
    model = tiny_model()
    trainer_for(tmp_path, model, toy_rows(16))
    assert not model.config.projection
    assert len(model.tail.projections) == 0
    trainer = trainer_for(tmp_path, model, toy_rows(16), **PLUS)
    assert model.config.projection
    before = model.tail.projections[0].weight.detach().clone()
    trainer.train()
    assert not torch.equal(model.tail.projections[0].weight, before)
    again = trainer_for(tmp_path, model, toy_rows(16), **PLUS)
    assert torch.equal(again.model.tail.projections[0].weight, model.tail.projections[0].weight)
