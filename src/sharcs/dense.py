"""Sub-networks as plain layers with contiguous weights of their own, copied once, for inference."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from sharcs.subnetworks import RoutedTail

__all__ = ["DenseLayers"]


class DenseLayers:
    """Copies of every narrow width's layers, and whether they still equal the weights that they were cut from.

    Weights change in many ways: a training step, a loaded state, an assignment by hand. Rather than to be told of
    each, the copies remember the version counters that torch keeps of every tensor, so that a forgotten case can't
    give wrong answers. Only writing through ``.data`` goes around the counters.

    No module of the network, so that the copies are in no state dict and no optimiser.

    Args:
        tail: The routed tail to copy from.

    Attributes:
        layers: By width below 1.0, then by position in the tail.
    """

    def __init__(self, tail: RoutedTail) -> None:
        """Cut and copy the weights."""
        self.layers = [
            [_plain_copy(twin, tail.parameters_at(width, position)) for position, twin in enumerate(twins)]
            for width, twins in enumerate(tail.twins)
        ]
        sources = [*tail.layers.parameters(), *tail.layers.buffers(), *tail.norms.parameters()]
        # Tensors that were made in inference mode have no counter.
        self._sources = [tensor for tensor in sources if not tensor.is_inference()]
        self._version = self._current_version()

    def are_current(self) -> bool:
        """Tell whether no weight was written to since the copies were made."""
        return self._current_version() == self._version

    def _current_version(self) -> int:
        # The counters only grow, so their sum shows every change.
        return sum([tensor._version for tensor in self._sources])


@torch.no_grad()
def _plain_copy(twin: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    """Fill a copy of the parameterless twin with contiguous copies of the values, in evaluation mode."""
    layer = copy.deepcopy(twin)
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        module = layer.get_submodule(path)
        own = value.detach().clone(memory_format=torch.contiguous_format)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(own, requires_grad=False)
        else:
            module._buffers[leaf] = own
    return layer.train(False)
