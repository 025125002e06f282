"""The router and its policy against loops over single inputs, tokens and widths."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharcs.config import RoutingPolicy
from sharcs.model.router import Router
from sharcs.subnetworks.base import mean_of_real_tokens
from sharcs_runtime.policy import choose_width


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_mean_counts_real_tokens_only(dtype):
    hidden = random(3, 6, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1]])
    expected = torch.stack(
        [sum(hidden[row, token] for token in range(6) if mask[row, token]) / int(mask[row].sum()) for row in range(3)]
    )
    torch.testing.assert_close(mean_of_real_tokens(hidden, mask.to(dtype)), expected)
    # Not zero means real.
    torch.testing.assert_close(mean_of_real_tokens(hidden, mask * torch.arange(1, 7)), expected)


def test_mean_ignores_what_stands_in_padding():
    hidden, mask = random(2, 5, 4), torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    changed = torch.where(mask.bool().unsqueeze(-1), hidden, 1e6)
    assert torch.equal(mean_of_real_tokens(hidden, mask), mean_of_real_tokens(changed, mask))


def test_mean_of_a_row_of_padding_is_zero_and_not_nan():
    mean = mean_of_real_tokens(random(2, 3, 4), torch.tensor([[0, 0, 0], [1, 1, 0]]))
    assert torch.equal(mean[0], torch.zeros(4, dtype=torch.float64))
    assert mean.isfinite().all()


def test_router_is_two_linear_layers_with_relu_on_the_mean():
    router = Router(4, 7, 3).double().requires_grad_(False)
    hidden, mask = random(2, 5, 4, scale=3), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    logits = router(hidden, mask)
    assert logits.shape == (2, 3)
    for row, length in enumerate((3, 5)):
        pooled = hidden[row, :length].mean(dim=0)
        middle = [
            max(0.0, float(w @ pooled + b)) for w, b in zip(router.hidden.weight, router.hidden.bias, strict=True)
        ]
        for width in range(3):
            expected = sum(float(w) * m for w, m in zip(router.output.weight[width], middle, strict=True))
            assert float(logits[row, width]) == pytest.approx(expected + float(router.output.bias[width]))


def test_without_cost_weight_the_width_is_the_argmax_even_where_the_sigmoid_saturates():
    logits = torch.tensor([[40.0, 50.0, 45.0], [90.0, -1.0, 89.0], [-200.0, -150.0, -140.0]])
    cost = torch.tensor([0.1, 0.5, 1.0])
    assert choose_width(logits, cost, RoutingPolicy()).tolist() == [1, 0, 2]


def test_ties_go_to_the_cheaper_width():
    assert choose_width(torch.zeros(2, 3), torch.ones(3), RoutingPolicy()).tolist() == [0, 0]
    assert choose_width(torch.zeros(2, 3), torch.ones(3), RoutingPolicy(0.5)).tolist() == [0, 0]


@given(
    logits=st.lists(st.lists(st.floats(-6, 6), min_size=3, max_size=3), min_size=1, max_size=4),
    costs=st.lists(st.floats(0.05, 1.2), min_size=3, max_size=3),
    weight=st.floats(-3, 3).filter(bool),
    per_input=st.booleans(),
)
def test_the_policy_maximises_score_less_weighted_cost(logits, costs, weight, per_input):
    rows = [[cost * (1 + row * per_input) for cost in costs] for row in range(len(logits))]
    relative = torch.tensor(rows if per_input else costs, dtype=torch.float64)
    chosen = choose_width(torch.tensor(logits, dtype=torch.float64), relative, RoutingPolicy(weight)).tolist()
    for row, index in enumerate(chosen):
        value = [1 / (1 + math.exp(-logits[row][i])) - weight * rows[row][i] for i in range(3)]
        assert value[index] >= max(value) - 1e-12


@given(logits=st.lists(st.floats(-30, 30), min_size=3, max_size=3))
def test_a_large_weight_takes_the_cheapest_width_and_a_large_negative_one_the_full_width(logits):
    row, cost = torch.tensor([logits]), torch.tensor([0.1, 0.5, 1.0])
    assert choose_width(row, cost, RoutingPolicy(1000.0)).tolist() == [0]
    assert choose_width(row, cost, RoutingPolicy(-1000.0)).tolist() == [2]
