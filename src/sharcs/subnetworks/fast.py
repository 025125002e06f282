"""The layers of all widths in a form that runs fast, made once, for inference."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from sharcs.encoders.architectures import head_size, layers_config
from sharcs.subnetworks.lean import LeanLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from torch import Tensor

    from sharcs.model.tail import RoutedTail

__all__ = ["DenseLayers"]


class DenseLayers:
    """Layers for inference, and whether they still equal the weights that they were made from.

    Slices of shared weights are copied into contiguous ones. Layers of the common build, of all widths and before the
    router, run without their modules (:class:`~sharcs.subnetworks.lean.LeanLayer`), where attention is PyTorch's own.

    Weights change in many ways: a training step, a loaded state, an assignment by hand. Rather than to be told of
    each, the copies remember the version counters that torch keeps of every tensor, so that a forgotten case can't
    give wrong answers. Only writing through ``.data`` goes around the counters.

    No module of the network, so that the copies are in no state dict and no optimiser.

    Args:
        tail: The routed tail to copy from.

    Attributes:
        trunk: Layers 1..k.
        layers: By width, then by position in the tail.
    """

    def __init__(self, tail: RoutedTail) -> None:
        """Cut and copy the weights."""
        if tail.private:
            narrow: list[list[nn.Module]] = [list(own.layers) for own in tail.private]  # type: ignore[arg-type]
        else:
            narrow = [
                [_plain_copy(twin, tail.parameters_at(width, position)) for position, twin in enumerate(twins)]
                for width, twins in enumerate(tail.twins)
            ]
        self.trunk = _lean(tail, tail.trunk, tail.trunk)
        self.layers = [_lean(tail, layers, tail.layers) for layers in (*narrow, list(tail.layers))]
        modules = [*tail.trunk, tail.layers, tail.norms, tail.private]
        sources = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        # Tensors that were made in inference mode have no counter.
        self._sources = [tensor for tensor in sources if not tensor.is_inference()]
        self._version = self._current_version()

    def are_current(self) -> bool:
        """Tell whether no weight was written to since the copies were made."""
        return self._current_version() == self._version

    def _current_version(self) -> int:
        # The counters only grow, so their sum shows every change.
        return sum([tensor._version for tensor in self._sources])


def _lean(tail: RoutedTail, layers: Iterable[nn.Module], full: Iterable[nn.Module]) -> list[Callable[..., Any]]:
    """Put lean layers in the place of those that may be of the common build."""
    sizes = layers_config(tail.encoder_config)
    if sizes._attn_implementation != "sdpa":
        return list(layers)
    return [
        LeanLayer.of(own, whole, tail.encoder_config, head_size(sizes)) or own
        for own, whole in zip(layers, full, strict=True)
    ]


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
