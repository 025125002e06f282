"""Pruned BERT, which a study routes, against BERT with what was pruned set to zero."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from helpers.encoders import make_batch, randomise
from sharcs import SharcsForSequenceClassification

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import pruned

HEADS, NEURONS, HIDDEN = 4, 48, 32


@pytest.fixture
def plain():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=NEURONS,
        num_hidden_layers=3, max_position_embeddings=40, num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config).train(False)
    randomise(model, 0)
    return model


@pytest.mark.parametrize(("heads", "neurons"), [(HEADS, NEURONS), (3, NEURONS), (HEADS, 20), (2, 24)])
@torch.no_grad()
def test_the_first_units_compute_what_the_network_does_without_the_others(plain, heads, neurons):
    batch = make_batch(plain.config, [4, 9, 6])
    small = pruned.first_units(plain, heads, neurons)
    zeroed = copy.deepcopy(plain)
    for layer in zeroed.bert.encoder.layer:
        layer.attention.output.dense.weight[:, heads * HIDDEN // HEADS :] = 0
        layer.output.dense.weight[:, neurons:] = 0
    torch.testing.assert_close(small(**batch).logits, zeroed(**batch).logits, atol=1e-5, rtol=0)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in plain.parameters()) or heads == HEADS


@torch.no_grad()
def test_it_is_saved_loaded_and_routed(plain, tmp_path):
    small = pruned.first_units(plain, heads=2, neurons=24)
    small.save_pretrained(tmp_path)
    batch = make_batch(plain.config, [4, 9, 6])
    assert torch.equal(
        AutoModelForSequenceClassification.from_pretrained(tmp_path)(**batch).logits, small(**batch).logits
    )
    routed = SharcsForSequenceClassification.from_encoder(
        tmp_path, widths=(0.5, 1.0), router_layer=1, weights="shared"
    )
    assert torch.equal(routed(**batch, width=1.0).logits, small(**batch).logits)
    narrow = routed.tail.narrow[0].config
    assert (narrow.num_attention_heads, narrow.head_dim, narrow.hidden_size, narrow.intermediate_size) == (
        1,
        8,
        16,
        12,
    )
