"""Importance where projections are fused, gated, grouped or repeated: brute force, and index by index."""

import copy

import pytest
import torch

from helpers.encoders import Size, load_routed, make_batch
from helpers.own import with_own_weights
from sharcs.training.importance import Importance, measure_importance, reorder_by_importance

UNITS = {"heads": Size().heads, "neurons": Size().feed_forward, "hidden": Size().hidden}
WIDTHS = [0.5, 1.0]
# What the rows and the columns of each linear layer belong to, and how many layers are fused in it.
PLACES = {
    "modernbert": {
        "attn.Wqkv": ("heads", "hidden", 3),
        "attn.Wo": ("hidden", "heads", 1),
        "mlp.Wi": ("neurons", "hidden", 2),
        "mlp.Wo": ("hidden", "neurons", 1),
    },
    "eurobert": {
        "self_attn.q_proj": ("heads", "hidden", 1),
        "self_attn.k_proj": ("heads", "hidden", 1),
        "self_attn.v_proj": ("heads", "hidden", 1),
        "self_attn.o_proj": ("hidden", "heads", 1),
        "mlp.gate_proj": ("neurons", "hidden", 1),
        "mlp.up_proj": ("neurons", "hidden", 1),
        "mlp.down_proj": ("hidden", "neurons", 1),
    },
    "deberta-v2-conv": {
        "attention.self.query_proj": ("heads", "hidden", 1),
        "attention.self.key_proj": ("heads", "hidden", 1),
        "attention.self.value_proj": ("heads", "hidden", 1),
        "attention.self.pos_key_proj": ("heads", "hidden", 1),
        "attention.self.pos_query_proj": ("heads", "hidden", 1),
        "attention.output.dense": ("hidden", "heads", 1),
        "intermediate.dense": ("neurons", "hidden", 1),
        "output.dense": ("hidden", "neurons", 1),
    },
    "albert": {
        "albert_layers.0.attention.query": ("heads", "hidden", 1),
        "albert_layers.0.attention.key": ("heads", "hidden", 1),
        "albert_layers.0.attention.value": ("heads", "hidden", 1),
        "albert_layers.0.attention.dense": ("hidden", "heads", 1),
        "albert_layers.0.ffn": ("neurons", "hidden", 1),
        "albert_layers.0.ffn_output": ("hidden", "neurons", 1),
    },
}


@pytest.fixture
def model(plain_path):
    return load_routed(plain_path, widths=WIDTHS)


def batches(model):
    return [
        make_batch(model.encoder.config, [4, 9, 6], seed=seed) | {"labels": torch.tensor([0, 2, 1])}
        for seed in range(2)
    ]


def indices(count, kind, blocks, kept):
    """List, for each kept unit in order, where its rows or columns are among ``count``; block after block."""
    size = count // blocks // UNITS[kind]
    whole = torch.arange(count).view(blocks, UNITS[kind], size)
    return torch.cat([torch.cat([whole[block, unit] for unit in kept]) for block in range(blocks)])


def random_importance(layers):
    torch.manual_seed(7)
    return Importance(
        [torch.rand(UNITS["heads"]) for _ in range(layers)],
        [torch.rand(UNITS["neurons"]) for _ in range(layers)],
    )


@torch.no_grad()
def test_reordering_leaves_the_full_network_of_every_family_as_it_is(model):
    before = copy.deepcopy(model)
    with torch.enable_grad():
        reorder_by_importance(model, batches(model))
    batch = make_batch(model.encoder.config, [4, 9, 6], seed=5)
    torch.testing.assert_close(model(**batch, width=1.0).logits, before(**batch, width=1.0).logits, atol=2e-5, rtol=0)
    assert (model(**batch, width=0.5).logits - before(**batch, width=0.5).logits).abs().max() > 1e-3
    copied = copy.deepcopy(model)
    assert torch.equal(copied(**batch, width=0.5).logits, model(**batch, width=0.5).logits)


@pytest.mark.parametrize("family", sorted(PLACES), indirect=True)
@torch.no_grad()
def test_weights_of_their_own_are_those_of_the_most_important_units(family, model):
    model = with_own_weights(model)
    own, layers = model.tail.narrow[0], list(model.tail.layers)
    scores = random_importance(len(layers))
    own.fill(layers, scores.orders())
    for position, (full, narrow) in enumerate(zip(layers, own.layers, strict=True)):
        of = {"heads": scores.heads[position], "neurons": scores.neurons[position]}
        kept = {kind: sorted(range(len(s)), key=lambda i: -s[i])[: len(s) // 2] for kind, s in of.items()}
        kept["hidden"] = range(UNITS["hidden"])
        for name, (rows, columns, blocks) in PLACES[family].items():
            whole, cut = full.get_submodule(name), narrow.get_submodule(name)
            at_rows = indices(whole.out_features, rows, blocks, kept[rows])
            at_columns = indices(whole.in_features, columns, 1, kept[columns])
            assert torch.equal(cut.weight, whole.weight[at_rows][:, at_columns])
            if whole.bias is not None:
                assert torch.equal(cut.bias, whole.bias[at_rows])
        whole, cut = (dict(layer.named_parameters()) for layer in (full, narrow))
        for name in (name for name in whole if "norm" in name.lower()):
            assert torch.equal(cut[name], whole[name])


@pytest.mark.parametrize("family", ["modernbert", "eurobert"], indirect=True)
def test_importance_equals_brute_force(family, model):
    model = model.double()
    found = measure_importance(model, batches(model))
    output = next(name for name, (rows, columns, _) in PLACES[family].items() if columns == "heads")
    epsilon = 1e-4  # rotary embeddings and norms compute in single precision
    for position, layer in enumerate(model.tail.layers):
        weight = layer.get_submodule(output).weight
        for head in range(UNITS["heads"]):
            columns, total = indices(weight.shape[1], "heads", 1, [head]), 0.0
            for batch in batches(model):
                losses, kept = [], weight.data[:, columns].clone()
                for factor in (1 + epsilon, 1 - epsilon):
                    weight.data[:, columns] = kept * factor
                    losses.append(float(model(**batch, width=1.0).loss.detach()))
                weight.data[:, columns] = kept
                total += abs(losses[0] - losses[1]) / (2 * epsilon)
            assert float(found.heads[position][head]) == pytest.approx(total, rel=0.02, abs=1e-3)
        expected = torch.zeros(UNITS["neurons"])
        for batch in batches(model):
            model.zero_grad()
            model(**batch, width=1.0).loss.backward()
            for neuron in range(UNITS["neurons"]):
                into = out_of = 0.0
                for name, (rows, columns, blocks) in PLACES[family].items():
                    weight = layer.get_submodule(name).weight
                    if rows == "neurons":
                        at = indices(len(weight), rows, blocks, [neuron])
                        into += float((weight.data[at] * weight.grad[at]).sum())
                    elif columns == "neurons":
                        out_of += float((weight.data[:, neuron] * weight.grad[:, neuron]).sum())
                expected[neuron] += abs(into) + abs(out_of)
        torch.testing.assert_close(found.neurons[position].float(), expected, rtol=1e-4, atol=1e-6)
