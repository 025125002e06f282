"""Exported graphs against the PyTorch model, called with one batch after the other."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from helpers.encoders import DISTINCT, ENCODERS, Size, load_routed, make_batch, randomise
from helpers.own import own_parameters, with_own_weights
from sharcs.errors import InputError
from sharcs.export.onnx import Dense, Tail, Trunk, check_graph, write_graph
from sharcs.model.layer_list import trunk_layers

WIDTHS = [0.25, 1.0]
SIZE = Size(layers=2)
LENGTHS = ([7, 12, 3], [1], [25], [5, 5])


def load(family, folder, private=False):
    """Load a routed model of the family, of two layers and two widths."""
    plain = AutoModelForSequenceClassification.from_config(ENCODERS[family](SIZE))
    randomise(plain, seed=0)
    plain.save_pretrained(folder / family)
    model = load_routed(folder / family, widths=WIDTHS)
    if private:
        model.config.private_weights = True
        model = with_own_weights(model)
        randomise(nn.ModuleList(model.tail.narrow), seed=5)
        model.tail.narrow[0].kept_heads.fill_(2)  # not the first, which position biases tell from it
    return model.eval()


@torch.no_grad()
def open_graph(part, example, folder):
    """Write the part and open it on ONNX Runtime."""
    write_graph(part, example, folder / "graph.onnx")
    session = onnxruntime.InferenceSession(str(folder / "graph.onnx"))
    return lambda inputs: session.run(list(part.outputs), {name: value.numpy() for name, value in inputs.items()})


def batches_for(model):
    return [make_batch(model.config.encoder, lengths, seed=seed) for seed, lengths in enumerate(LENGTHS)]


def numbers_in(file):
    """Count the weights of a graph."""
    return sum(int(np.prod(one.dims)) for one in onnx.load(file).graph.initializer)


class Both(nn.Module):
    """Trunk and narrow tail in one graph, which is traced in half the time of two."""

    outputs = ("router_logits", "hidden", "logits")

    def __init__(self, model):
        """Make both."""
        super().__init__()
        self.trunk, self.tail = Trunk(model), Tail(model, 0.25)

    def forward(self, input_ids, attention_mask):
        """Run one after the other."""
        router_logits, hidden = self.trunk(input_ids, attention_mask)
        return router_logits, hidden, self.tail(hidden, attention_mask)


# Position biases, convolutions, repeated layers, rotations and a final norm: others are built of the same.
EXPORTED = ("bert", "deberta-v2-conv")


@pytest.mark.parametrize(
    "family",
    [name if name in EXPORTED else pytest.param(name, marks=pytest.mark.extended) for name in DISTINCT],
)
@torch.no_grad()
def test_trunk_and_sub_network_of_every_family(family, tmp_path):
    model = load(family, tmp_path)
    batches = batches_for(model)
    run = open_graph(Both(model), batches[0], tmp_path)
    for batch in batches:
        trunk = model.run_trunk(**batch)
        wanted = (trunk.router_logits, trunk.hidden, model(**batch, width=0.25).logits)
        for found, truth in zip(run(batch), wanted, strict=True):
            np.testing.assert_allclose(found, truth.numpy(), atol=2e-5, rtol=1e-4)
    # Layers k+1..L at full width, which a tracer of the trunk may have come by, are not in it.
    below = {id(p) for layer in trunk_layers(model.encoder) for p in layer.parameters()}
    tail = sum(p.numel() for p in model.tail.layers.parameters() if id(p) not in below)
    assert tail == 0 or numbers_in(tmp_path / "graph.onnx") < sum(p.numel() for p in model.parameters()) - 0.8 * tail


@pytest.mark.parametrize("family", ["distilbert", pytest.param("mpnet", marks=pytest.mark.extended)])
@torch.no_grad()
def test_sub_network_of_private_weights(family, tmp_path):
    model = load(family, tmp_path, private=True)
    batches = batches_for(model)
    kept = [
        {"hidden": model.run_trunk(**batch).hidden, "attention_mask": batch["attention_mask"]} for batch in batches
    ]
    run = open_graph(Tail(model, 0.25), kept[0], tmp_path)
    for batch, given in zip(batches, kept, strict=True):
        wanted = model(**batch, width=0.25).logits.numpy()
        np.testing.assert_allclose(run(given)[0], wanted, atol=2e-5, rtol=1e-4)
    # Its own size, and no embeddings nor layers of the trunk.
    own = sum(p.numel() for p in own_parameters(model))
    head = 2 * SIZE.hidden * (SIZE.hidden + 1) + 300
    assert numbers_in(tmp_path / "graph.onnx") < own + head


@torch.no_grad()
def test_a_dense_model_has_no_router_and_takes_segments(tmp_path):
    model = load("electra", tmp_path)
    batches = [batch | {"token_type_ids": batch["attention_mask"]} for batch in batches_for(model)]
    run = open_graph(Dense(model, 0.25), batches[0], tmp_path)
    for batch in batches:
        wanted = model(**batch, width=0.25).logits.numpy()
        np.testing.assert_allclose(run(batch)[0], wanted, atol=2e-5, rtol=1e-4)
    shapes = [tuple(one.dims) for one in onnx.load(tmp_path / "graph.onnx").graph.initializer]
    assert (SIZE.hidden, model.config.router_hidden_size) not in shapes
    assert (model.config.router_hidden_size, SIZE.hidden) not in shapes


class Doubled(nn.Module):
    """A part whose graph computes something else."""

    outputs = ("logits",)

    def forward(self, hidden):
        """Double when it is traced, alone."""
        return 2 * hidden if torch.compiler.is_exporting() else hidden


def test_a_graph_that_computes_something_else_is_refused(tmp_path):
    example = {"hidden": torch.ones(2, 3)}
    write_graph(Doubled(), example, tmp_path / "tail.onnx")
    with pytest.raises(InputError, match=r"tail: its logits on onnxruntime differ from PyTorch's by 1"):
        check_graph(Doubled(), [example], tmp_path / "tail.onnx")
