"""Products by oneDNN against the same in double precision, and against torch's own where they are not for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from judge import products

ROWS, INPUTS, OUTPUTS = 96, 160, 192  # above SMALLEST


@pytest.fixture(autouse=True)
def used(monkeypatch):
    calls = []
    asked = products._asked
    monkeypatch.setattr(products, "_asked", lambda *arguments: calls.append(1) or asked(*arguments))
    with products.by_onednn():
        yield calls
    before = len(calls)
    torch.randn(ROWS, INPUTS) @ torch.randn(INPUTS, OUTPUTS)
    assert len(calls) == before  # torch's own product is back


def _gradients(inputs, weight, bias, dtype):
    tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in (inputs, weight, bias)]
    answer = F.linear(*tensors)
    # A sum's gradient is one number in all places: strides of 0.
    (answer.sum() + (answer**2).mean()).backward()
    return [answer.detach(), *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("turned", [False, True])
def test_a_linear_layer_and_its_gradients(turned, used):
    torch.manual_seed(0)
    inputs = torch.randn(INPUTS, ROWS).t() if turned else torch.randn(ROWS, INPUTS)
    weight, bias = torch.randn(OUTPUTS, INPUTS), torch.randn(OUTPUTS)
    for mine, truth in zip(
        _gradients(inputs, weight, bias, torch.float32),
        _gradients(inputs, weight, bias, torch.float64),
        strict=True,
    ):
        assert (mine - truth).abs().max() < 1e-5 * truth.abs().max()
    assert len(used) == 3  # the answer, the gradients of inputs and weight


@pytest.mark.parametrize("expanded", ["one", "other"])
def test_a_factor_whose_rows_are_one_row(expanded, used):
    one, other = torch.randn(ROWS, INPUTS), torch.randn(INPUTS, OUTPUTS)
    if expanded == "one":
        one = one[:1].expand(ROWS, INPUTS)
    else:
        other = other[:, 1:2].expand(INPUTS, OUTPUTS)
    torch.testing.assert_close((one @ other).double(), one.double() @ other.double(), rtol=1e-4, atol=1e-4)
    assert len(used) == 1


def test_a_slice_of_a_weight(used):
    """DynaBERT's layers multiply by some columns of a weight."""
    inputs, weight = torch.randn(ROWS, INPUTS), torch.randn(OUTPUTS, 2 * INPUTS)[:, :INPUTS]
    truth = F.linear(inputs.double(), weight.double())
    torch.testing.assert_close(F.linear(inputs, weight).double(), truth, rtol=1e-4, atol=1e-4)
    assert len(used) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.randn(2, 3), torch.randn(3, 4)),
        (torch.randn(ROWS, INPUTS).bfloat16(), torch.randn(INPUTS, OUTPUTS).bfloat16()),
        (torch.randint(9, (ROWS, INPUTS)), torch.randint(9, (INPUTS, OUTPUTS))),
    ],
)
def test_others_stay_as_they_are(one, other, used):
    truth = (one.double().unsqueeze(-1) * other.double().unsqueeze(0)).sum(1)
    torch.testing.assert_close((one @ other).double(), truth, rtol=2e-2, atol=2e-1)
    assert not used


@pytest.mark.parametrize(("rows", "beta", "alpha"), [(ROWS, 1, 1), (ROWS, 0.5, 2), (1, 0.5, 2)])
def test_what_is_no_linear_layer(rows, beta, alpha, used):
    added, one, other = torch.randn(rows, OUTPUTS).squeeze(0), torch.randn(ROWS, INPUTS), torch.randn(INPUTS, OUTPUTS)
    truth = beta * added.double() + alpha * (one.double() @ other.double())
    answer = torch.addmm(added, one, other, beta=beta, alpha=alpha)
    torch.testing.assert_close(answer.double(), truth, rtol=1e-4, atol=1e-4)
    assert not used
