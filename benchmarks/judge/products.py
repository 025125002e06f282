"""Products of matrices by oneDNN, in float32 like those of MKL, which uses less of an AMD processor."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

# Multiplications: the overhead of the call counts in what is smaller, such as a classifier's.
SMALLEST = 2**21


def _asked(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Have oneDNN compute ``inputs @ weight.T + bias``."""
    answer: Tensor = torch.ops.mkldnn._linear_pointwise(_dense(inputs), _dense(weight), bias, "none", [], "")
    return answer


def _dense(matrix: Tensor) -> Tensor:
    """Copy what is cut out of something larger, such as the [CLS] of each text: there oneDNN is slow."""
    is_dense = matrix.is_contiguous() or matrix.t().is_contiguous()
    return matrix if is_dense else matrix.contiguous()


def _is_for_onednn(one: Tensor, other: Tensor) -> bool:
    size = one.shape[0] * one.shape[1] * other.shape[1]
    return size >= SMALLEST and one.dtype == other.dtype == torch.float32


def _mm(one: Tensor, other: Tensor) -> Tensor:
    if _is_for_onednn(one, other):
        return _asked(one, other.t(), None)
    out = one.new_empty(one.shape[0], other.shape[1])
    return torch.ops.aten.mm.out(one, other, out=out)  # type: ignore[no-any-return]


def _addmm(bias: Tensor, one: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    is_linear = beta == alpha == 1 and bias.shape == other.shape[1:] and bias.dtype == torch.float32
    if is_linear and _is_for_onednn(one, other):
        return _asked(one, other.t(), bias.contiguous())
    out = one.new_empty(one.shape[0], other.shape[1])
    return torch.ops.aten.addmm.out(bias, one, other, beta=beta, alpha=alpha, out=out)  # type: ignore[no-any-return]


@contextlib.contextmanager
def by_onednn() -> Iterator[None]:
    """Let linear layers and their gradients use oneDNN in this process; all methods of the comparison are trained so.

    Products of other types and small ones stay as they are. benchmarks/products_speed.py says what it gains.
    """
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        # That a kernel is replaced is what this is for.
        warnings.simplefilter("ignore", UserWarning)
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
    try:
        yield
    finally:
        del library  # and torch's own are back
