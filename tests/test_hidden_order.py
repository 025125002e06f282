"""Reordering hidden dimensions, against importance measured by brute force and the unchanged full network."""

import copy

import pytest
import torch
from torch import nn

from sharcs.hidden_order import reorder_hidden_dimensions
from tiny import CONFIGS, HIDDEN, batches, collate, hook_counts, tiny_model, toy_rows

each_kind = pytest.mark.parametrize("kind", sorted(CONFIGS))


def outputs(model, width):
    model.eval()
    with torch.no_grad():
        return model(**collate(toy_rows(24)), width=width).logits


def shaken(kind):
    """Build a model whose norms are no constants, which would hide a missed permutation."""
    model = tiny_model(kind, layers=4, router_layer=2, seed=5)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if "norm" in name.lower():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.tail.reset_norms()
    return model


def brute_force(model):
    """Σ |h·∂loss/∂h| over outputs of layers k..L, by scaling one dimension of one token at a time (double precision).

    h·∂loss/∂h is the derivative by a factor on h, here taken by central differences.
    """
    model = copy.deepcopy(model).double().eval()
    scores = torch.zeros(HIDDEN, dtype=torch.float64)
    epsilon = 1e-6
    batch = {name: value[:2] for name, value in batches(1)[0].items()}
    rows, tokens = batch["input_ids"].shape
    for position in range(-1, len(model.tail.layers)):
        for row in range(rows):
            for token in range(tokens):
                for dimension in range(HIDDEN):
                    losses = []
                    for factor in (1 + epsilon, 1 - epsilon):

                        def scaled(hidden, factor=factor, at=(row, token, dimension)):
                            hidden = hidden.clone()
                            hidden[at] *= factor
                            return hidden

                        def after(_module, _inputs, output, scaled=scaled):
                            return (scaled(output[0]), *output[1:]) if isinstance(output, tuple) else scaled(output)

                        if position < 0:
                            hook = model.tail.register_forward_pre_hook(
                                lambda _module, inputs, scaled=scaled: (scaled(inputs[0]), *inputs[1:])
                            )
                        else:
                            hook = model.tail.layers[position].register_forward_hook(after)
                        with torch.no_grad():
                            losses.append(float(model(**batch, width=1.0).loss))
                        hook.remove()
                    scores[dimension] += abs(losses[0] - losses[1]) / (2 * epsilon)
    return scores, batch


@each_kind
def test_the_full_network_is_unchanged_and_the_narrow_one_is_not(kind):
    before = shaken(kind)
    after = copy.deepcopy(before)
    order = reorder_hidden_dimensions(after, batches())
    assert sorted(order.tolist()) == list(range(HIDDEN)) != order.tolist()
    torch.testing.assert_close(outputs(after, 1.0), outputs(before, 1.0), atol=1e-5, rtol=0)
    assert (outputs(after, 0.25) - outputs(before, 0.25)).abs().max() > 1e-3
    with torch.no_grad():
        found, expected = (m(**collate(toy_rows(24))).router_logits for m in (after, before))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_order_is_that_of_brute_force_importance():
    model = tiny_model(seed=2)
    scores, batch = brute_force(model)
    assert scores.sort().values.diff().min() > 1e-8, "choose another seed: two dimensions tie"
    assert reorder_hidden_dimensions(model, [batch]).tolist() == scores.argsort(descending=True).tolist()


@each_kind
def test_layers_outputs_are_permuted(kind):
    before = shaken(kind)
    after = copy.deepcopy(before)
    order = reorder_hidden_dimensions(after, batches())
    kept = []
    for model in (before, after):
        model.eval()
        hook = model.tail.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
        with torch.no_grad():
            model(**collate(toy_rows(24)), width=1.0)
        hook.remove()
    torch.testing.assert_close(kept[1], kept[0][..., order], atol=1e-5, rtol=0)


@each_kind
def test_private_norms_start_as_the_new_prefixes(kind):
    model = shaken(kind)
    reorder_hidden_dimensions(model, batches())
    for layer, norms in zip(model.tail.layers, model.tail.norms[0], strict=True):
        full = [module for module in layer.modules() if isinstance(module, nn.LayerNorm)]
        for norm, whole in zip(norms, full, strict=True):
            assert torch.equal(norm.weight, whole.weight[: norm.weight.shape[0]])
            assert torch.equal(norm.bias, whole.bias[: norm.bias.shape[0]])


class Watermark(nn.Module):
    """A part that no permutation can go through: it adds something to one dimension."""

    def __init__(self, inner):
        """Wrap the embeddings."""
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        """Add it."""
        hidden = self.inner(*args, **kwargs)
        return hidden + 3 * nn.functional.one_hot(torch.tensor(0), hidden.shape[-1])


def test_an_encoder_that_it_can_not_follow_is_left_as_it_was():
    model = tiny_model(seed=3)
    model.encoder.bert.embeddings = Watermark(model.encoder.bert.embeddings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert reorder_hidden_dimensions(model, batches()) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_frozen_encoders_and_training_mode_are_left_as_they_were():
    model = tiny_model(seed=3).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    free = tiny_model(seed=3)
    order = reorder_hidden_dimensions(model, batches())
    assert torch.equal(order, reorder_hidden_dimensions(free, batches()))
    assert model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in free.parameters())
    assert hook_counts(model) == hook_counts(tiny_model(seed=3))
