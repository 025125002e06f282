"""Units of a layer: heads, groups of heads that share a key and a value, feed-forward neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sharcs.encoders.layers import Projection


def keep_units(tensor: Tensor, dim: int, count: int, kept: Tensor, blocks: int = 1) -> Tensor:
    """Take some of the units (heads, their groups, neurons) that one dimension of a weight or a bias is made of.

    Args:
        tensor: The weight, or the bias.
        dim: The dimension.
        count: How many units it has.
        kept: Which ones to take, in order.
        blocks: How many projections it holds behind each other, from each of which they are taken.
    """
    units: Tensor = tensor.unflatten(dim, (blocks, count, -1))
    return units.index_select(dim + 1, kept.to(tensor.device)).flatten(dim, dim + 2)


@torch.no_grad()
def permute(projections: list[Projection], back: nn.Linear, order: Tensor) -> None:
    """Put the heads of a layer, their groups, or its neurons into another order, in place; it computes the same.

    Args:
        projections: What leads to the units.
        back: What leads from them.
        order: Of the units, int64 ``[units]``.
    """
    for projection in projections:
        for tensor in projection.linear.parameters():
            tensor.copy_(keep_units(tensor, 0, len(order), order, projection.blocks))
    back.weight.copy_(keep_units(back.weight, 1, len(order), order))


def masked(mask: Tensor) -> Any:
    """Make a hook that scales what a linear layer is given, of which each number of ``mask`` has an equal part."""

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * mask.repeat_interleave(inputs[0].shape[-1] // len(mask)), *inputs[1:])

    return hook
