"""Reordering by importance, against importance that is measured by brute force on unchanged models."""

import copy

import pytest
import torch
from torch import nn

from helpers.tiny import CONFIGS, HEADS, HIDDEN, NEURONS, batches, collate, hook_counts, tiny_model, toy_rows
from sharcs.errors import InputError
from sharcs.training.importance import reorder_by_importance

# Query, key, value, output, and the two feed-forward projections, by name in a layer.
NAMES = {
    "bert": (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
    "distilbert": (
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "ffn.lin1",
        "ffn.lin2",
    ),
    "mpnet": (
        "attention.attn.q",
        "attention.attn.k",
        "attention.attn.v",
        "attention.attn.o",
        "intermediate.dense",
        "output.dense",
    ),
}
NAMES |= {"roberta": NAMES["bert"], "electra": NAMES["bert"]}
SIZE = HIDDEN // HEADS

each_kind = pytest.mark.parametrize("kind", sorted(CONFIGS))


def logits(model, width, inputs=None):
    model.eval()
    inputs = inputs or {name: value for name, value in collate(toy_rows(24)).items() if name != "labels"}
    with torch.no_grad():
        return model(**inputs, width=width).logits


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def brute_force_heads(model, kind):
    """Σ over batches of |∂loss/∂mask|, by central differences: a mask on a head scales the columns that read it."""
    model = copy.deepcopy(model).double().eval()
    epsilon = 1e-5
    scores = torch.zeros(len(model.tail.layers), HEADS, dtype=torch.float64)
    for batch in batches():
        for position, layer in enumerate(model.tail.layers):
            output = layer.get_submodule(NAMES[kind][3]).weight
            for head in range(HEADS):
                columns = slice(head * SIZE, (head + 1) * SIZE)
                kept = output.data[:, columns].clone()
                losses = []
                for mask in (1 + epsilon, 1 - epsilon):
                    output.data[:, columns] = kept * mask
                    losses.append(float(model(**batch, width=1.0).loss.detach()))
                output.data[:, columns] = kept
                scores[position, head] += abs(losses[0] - losses[1]) / (2 * epsilon)
    return scores


def brute_force_neurons(model, kind):
    """Σ over batches of |Σ w·∂loss/∂w| over a neuron's weights in, and the same over its weights out."""
    model = copy.deepcopy(model).double().eval()
    scores = torch.zeros(len(model.tail.layers), NEURONS, dtype=torch.float64)
    for batch in batches():
        model.zero_grad()
        model(**batch, width=1.0).loss.backward()
        for position, layer in enumerate(model.tail.layers):
            up, down = (layer.get_submodule(name) for name in NAMES[kind][4:])
            for neuron in range(NEURONS):
                incoming = (up.weight[neuron] * up.weight.grad[neuron]).sum() + up.bias[neuron] * up.bias.grad[neuron]
                outgoing = (down.weight[:, neuron] * down.weight.grad[:, neuron]).sum()
                scores[position, neuron] += abs(incoming.item()) + abs(outgoing.item())
    return scores


def head_rows(order):
    return torch.cat([torch.arange(head * SIZE, (head + 1) * SIZE) for head in order.tolist()])


@pytest.fixture(scope="module")
def reordered():
    """Every architecture's model before and after, with the brute-force scores of before."""
    known = {}

    def get(kind):
        if kind not in known:
            before = tiny_model(kind, layers=4, router_layer=2, seed=3)
            after = copy.deepcopy(before)
            reorder_by_importance(after, batches())
            known[kind] = (before, after, brute_force_heads(before, kind), brute_force_neurons(before, kind))
        return known[kind]

    return get


@each_kind
def test_the_full_network_is_unchanged(reordered, kind):
    before, after, *_ = reordered(kind)
    torch.testing.assert_close(logits(after, 1.0), logits(before, 1.0), atol=1e-5, rtol=0)
    changed = [name for name, value in weights(after).items() if not torch.equal(value, before.state_dict()[name])]
    assert changed


@each_kind
def test_the_narrow_sub_network_changes(reordered, kind):
    before, after, *_ = reordered(kind)
    assert (logits(after, 0.25) - logits(before, 0.25)).abs().max() > 1e-3


@each_kind
def test_heads_are_sorted_by_brute_force_importance(reordered, kind):
    before, after, heads, _ = reordered(kind)
    if kind == "mpnet":  # all layers share a bias by head, so one order serves all of them
        heads = heads.sum(dim=0).expand(len(heads), -1)
    moved = False
    for old, new, scores in zip(before.tail.layers, after.tail.layers, heads, strict=True):
        assert scores.sort().values.diff().min() > 1e-6, "choose another seed: two heads tie"
        rows = head_rows(scores.argsort(descending=True))
        moved |= rows.tolist() != list(range(HIDDEN))
        for name in NAMES[kind][:3]:
            old_part, new_part = old.get_submodule(name), new.get_submodule(name)
            assert torch.equal(new_part.weight, old_part.weight[rows])
            assert torch.equal(new_part.bias, old_part.bias[rows])
        old_part, new_part = old.get_submodule(NAMES[kind][3]), new.get_submodule(NAMES[kind][3])
        assert torch.equal(new_part.weight, old_part.weight[:, rows])
        assert torch.equal(new_part.bias, old_part.bias)
    assert moved, "choose another seed: nothing to sort"


@each_kind
def test_neurons_are_sorted_by_brute_force_importance(reordered, kind):
    before, after, _, neurons = reordered(kind)
    for old, new, scores in zip(before.tail.layers, after.tail.layers, neurons, strict=True):
        up, down = (old.get_submodule(name) for name in NAMES[kind][4:])
        new_up, new_down = (new.get_submodule(name) for name in NAMES[kind][4:])
        # Where each neuron went, told by its own weights; scores that differ by rounding may swap.
        order = [int((up.weight == row).all(dim=1).nonzero()) for row in new_up.weight]
        assert sorted(order) == list(range(NEURONS))
        sorted_scores = scores[order]
        assert (sorted_scores.diff() <= 1e-6).all(), "not descending"
        assert order != list(range(NEURONS))
        assert torch.equal(new_up.bias, up.bias[order])
        assert torch.equal(new_down.weight, down.weight[:, order])
        assert torch.equal(new_down.bias, down.bias)


@each_kind
def test_importance_measured_again_descends(reordered, kind):
    _, after, *_ = reordered(kind)
    heads = brute_force_heads(after, kind)
    if kind == "mpnet":
        heads = heads.sum(dim=0, keepdim=True)
    assert (heads.diff(dim=1) <= 1e-5).all()
    assert (brute_force_neurons(after, kind).diff(dim=1) <= 1e-5).all()


@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - {"mpnet"}))
def test_only_the_layers_after_the_router_change(reordered, kind):
    before, after, *_ = reordered(kind)
    tail = {id(parameter) for parameter in after.tail.layers.parameters()}
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) or id(new) in tail, name
    assert all(torch.equal(old, new) for old, new in zip(before.buffers(), after.buffers(), strict=True))


def test_mpnet_moves_the_heads_of_all_layers_and_their_bias_together(reordered):
    before, after, heads, _ = reordered("mpnet")
    order = heads.sum(dim=0).argsort(descending=True)
    for old, new in zip(before.encoder.mpnet.encoder.layer[:2], after.encoder.mpnet.encoder.layer[:2], strict=True):
        for name in NAMES["mpnet"][:3]:
            assert torch.equal(new.get_submodule(name).weight, old.get_submodule(name).weight[head_rows(order)])
        assert torch.equal(new.intermediate.dense.weight, old.intermediate.dense.weight)
    old_bias, new_bias = (m.encoder.mpnet.encoder.relative_attention_bias.weight for m in (before, after))
    assert torch.equal(new_bias, old_bias[:, order])


@pytest.mark.parametrize("training", [True, False])
def test_gradients_hooks_and_training_mode_are_left_as_they_were(training):
    model = tiny_model().train(training)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    reorder_by_importance(model, batches(1))
    assert all((parameter.grad == 7).all() for parameter in model.parameters())
    assert {module.training for module in model.modules()} == {training}
    assert {
        module.training for subnetwork in model.tail.narrow for twin in subnetwork.twins for module in twin.modules()
    } == {training}
    assert hook_counts(model) == hook_counts(tiny_model())


def test_importance_is_measured_without_dropout():
    orders = []
    for seed in (0, 1):
        model = tiny_model().train()
        torch.manual_seed(seed)
        reorder_by_importance(model, batches(1))
        orders.append(weights(model))
    assert all(torch.equal(orders[0][name], orders[1][name]) for name in orders[0])


def test_weights_in_half_precision_are_reordered():
    model = tiny_model().to(torch.bfloat16)
    before = logits(model, 1.0).float()
    reorder_by_importance(model, batches(1))
    assert (logits(model, 1.0).float() - before).abs().max() < 0.1


def test_layers_of_an_unknown_build_are_refused_by_name():
    model = tiny_model()
    model.tail.layers[0].extra = nn.Linear(HIDDEN, HIDDEN)
    with pytest.raises(InputError, match=r"bert.*importance_samples=0"):
        reorder_by_importance(model, batches(1))


def test_frozen_weights_are_reordered_like_others_and_stay_frozen():
    free, frozen = tiny_model(), tiny_model()
    for parameter in frozen.encoder.base_model.parameters():
        parameter.requires_grad_(False)
    reorder_by_importance(free, batches())
    reorder_by_importance(frozen, batches())
    assert all(torch.equal(value, frozen.state_dict()[name]) for name, value in free.state_dict().items())
    assert not any(parameter.requires_grad for parameter in frozen.encoder.base_model.parameters())
