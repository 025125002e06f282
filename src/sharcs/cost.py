"""FLOPs of an input at every width, in closed form, from its real length.

Counted are the multiplications and additions of every matrix product that runs (one multiply-add is two FLOPs):
the layers' projections and attention, projections of the embeddings, the pooler, the head and the router. Lookups,
norms, activations and softmax are left out, as ``torch.utils.flop_counter`` leaves them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sharcs.calls import trunk_layers

if TYPE_CHECKING:
    from sharcs.subnetworks import RoutedTail

__all__ = ["continuation_coefficients", "cost_coefficients", "flops", "relative_cost"]


def cost_coefficients(encoder: nn.Module, base_model: nn.Module, tail: RoutedTail) -> Tensor:
    """Write the cost of an input of T tokens as a polynomial: c₀ + c₁·T + c₂·T².

    Args:
        encoder: The model with its task head.
        base_model: The part of it below the task head.
        tail: The routed tail inside it.

    Returns:
        float64 ``[widths + 1, 3]``: a row a width, router included, and last the plain full network, which has no
        router to run.
    """
    tail_modules = set(tail.modules())
    full_layers = {type(layer) for layer in tail.layers}
    once = per_token = per_pair = 0.0
    pooler = getattr(base_model, "pooler", None)
    per_input = set(pooler.modules()) if pooler is not None else set()
    base_modules = set(base_model.modules())
    for module in encoder.modules():
        if module in tail_modules:
            continue
        if isinstance(module, nn.Linear):
            if module in base_modules and module not in per_input:
                per_token += _linear(module)
            else:
                once += _linear(module)
        if type(module) in full_layers:
            per_pair += _attention(tail.hidden_size)
    router = sum(_linear(module) for module in tail.router.modules() if isinstance(module, nn.Linear))

    rows = []
    for index in range(len(tail.narrow_widths) + 1):
        is_full = index == len(tail.narrow_widths)
        hidden = tail.hidden_size if is_full else tail.narrow_configs[index].hidden_size
        running = [m for part in tail.running_at(index) for m in part.modules()]
        linears = sum(_linear(module) for module in running if isinstance(module, nn.Linear))
        rows.append([once + router, per_token + linears, per_pair + len(tail.layers) * _attention(hidden)])
    rows.append([once, *rows[-1][1:]])
    return torch.tensor(rows, dtype=torch.float64)


def continuation_coefficients(encoder: nn.Module, base_model: nn.Module, tail: RoutedTail) -> Tensor:
    """Write the cost of continuing at full width from the kept output of layer k as c₀ + c₁·T + c₂·T².

    Layers 1..k and the router are not run again; a projection of the embeddings is, and the head.

    Args:
        encoder: The model with its task head.
        base_model: The part of it below the task head.
        tail: The routed tail inside it.

    Returns:
        float64 ``[3]``.
    """
    trunk = trunk_layers(encoder)
    linears = sum(_linear(m) for layer in trunk for m in layer.modules() if isinstance(m, nn.Linear))
    saved = torch.tensor([0.0, linears, len(trunk) * _attention(tail.hidden_size)], dtype=torch.float64)
    return cost_coefficients(encoder, base_model, tail)[-1] - saved


def flops(coefficients: Tensor, lengths: Tensor) -> Tensor:
    """Evaluate the polynomials.

    Args:
        coefficients: ``[widths + 1, 3]``, from :func:`cost_coefficients`.
        lengths: Real tokens of each input, ``[batch]``.

    Returns:
        FLOPs, ``[batch, widths + 1]``; the last column is the plain full network.
    """
    tokens = lengths.to(coefficients.dtype).unsqueeze(-1)  # [batch, 1]
    powers = torch.cat([torch.ones_like(tokens), tokens, tokens**2], dim=-1)  # [batch, 3]
    return powers @ coefficients.T


def relative_cost(coefficients: Tensor, lengths: Tensor) -> Tensor:
    """Divide each width's cost by that of the plain full network on the same input: ``[batch, widths]``."""
    cost = flops(coefficients, lengths)
    return cost[:, :-1] / cost[:, -1:]


def _linear(module: nn.Linear) -> float:
    return 2.0 * module.in_features * module.out_features


def _attention(hidden: int) -> float:
    """Scores and weighted values: each T² products over all heads' sizes, which sum to the hidden size."""
    return 2 * 2.0 * hidden
