"""The closed form of the cost against PyTorch's FLOP counter on the modules that run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from helpers.encoders import WIDTHS, load_plain, load_routed, make_batch
from sharcs_runtime.policy import flops, relative_cost


def counted(model, **inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


# The counter doesn't see the processor's fused attention, so the attention has to be eager.
@pytest.fixture(scope="module")
def models(plain_path):
    return (
        load_routed(plain_path, attn_implementation="eager"),
        load_plain(plain_path, attn_implementation="eager"),
    )


@pytest.mark.parametrize("length", [1, 7, 30])
def test_cost_is_what_the_flop_counter_counts(models, length):
    routed, plain = models
    batch = make_batch(plain.config, [length])
    cost = flops(routed.cost_coefficients(), torch.tensor([length]))
    expected = [counted(routed, **batch, width=width) for width in WIDTHS] + [counted(plain, **batch)]
    assert cost.tolist() == [expected]


@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, 38), min_size=1, max_size=2))
def test_cost_of_each_input_of_a_batch_is_that_of_the_input_alone(bert_models, lengths):
    routed, plain = bert_models
    cost = flops(routed.cost_coefficients(), torch.tensor(lengths))
    assert cost.shape == (len(lengths), len(WIDTHS) + 1)
    for length, row in zip(lengths, cost, strict=True):
        batch = make_batch(plain.config, [length])
        assert row.tolist() == [counted(routed, **batch, width=width) for width in WIDTHS] + [counted(plain, **batch)]


@pytest.fixture(scope="module")
def bert_models(bert_path):
    return load_routed(bert_path, attn_implementation="eager"), load_plain(bert_path, attn_implementation="eager")


def test_relative_cost_is_over_the_plain_network_so_that_the_router_shows_at_full_width(models):
    routed, plain = models
    batch = make_batch(plain.config, [20])
    whole = counted(plain, **batch)
    relative = relative_cost(routed.cost_coefficients(), torch.tensor([20]))
    assert relative.shape == (1, len(WIDTHS))
    for index, width in enumerate(WIDTHS):
        assert float(relative[0, index]) == pytest.approx(counted(routed, **batch, width=width) / whole)
    assert 1.0 < float(relative[0, -1]) < 1.1
    assert (relative.diff(dim=-1) > 0).all()
