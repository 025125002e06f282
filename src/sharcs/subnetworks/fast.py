"""The layers of all sub-networks in a form that runs fast, made once, for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharcs.encoders.architectures import head_size, layers_config
from sharcs.subnetworks.compact import CompactSubnetwork
from sharcs.subnetworks.lean import LeanLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from torch import nn
    from transformers import PreTrainedConfig

    from sharcs.subnetworks.base import EncoderSubnetwork
    from sharcs.subnetworks.front import FrontSubnetwork


class FastLayers:
    """Layers for inference, and whether they still equal the weights that they were made from.

    Slices of shared weights are copied into contiguous ones. Layers of the common build, of all widths and before the
    router, run without their modules (:class:`~sharcs.subnetworks.lean.LeanLayer`), where attention is PyTorch's own.

    Weights change in many ways: a training step, a loaded state, an assignment by hand. Rather than to be told of
    each, the copies remember the version counters that torch keeps of every tensor, so that a forgotten case can't
    give wrong answers. Only writing through ``.data`` goes around the counters.

    It is no module of the network, so that the copies are in no state dict and no optimiser.

    Args:
        trunk: Layers 1..k.
        subnetworks: The last one is the full network.
        encoder_config: The full encoder's configuration.
        front: The sub-networks that answer before the encoder runs.

    Attributes:
        trunk: Layers 1..k.
        layers: Of each sub-network, in their order.
        front: Of those in front that have layers, by their names.
    """

    def __init__(
        self,
        trunk: Sequence[nn.Module],
        subnetworks: Sequence[EncoderSubnetwork],
        encoder_config: PreTrainedConfig,
        front: Sequence[FrontSubnetwork] = (),
    ) -> None:
        full = list(subnetworks[-1].layers)
        compact = [part for part in front if isinstance(part, CompactSubnetwork)]
        self.trunk = _lean(trunk, trunk, encoder_config)
        self.layers = [_lean(subnetwork.contiguous_layers(), full, encoder_config) for subnetwork in subnetworks]
        self.front = {
            part.spec.name: _lean(part.inner.contiguous_layers(), [*trunk, *full][: part.spec.layers], encoder_config)
            for part in compact
        }
        modules = [*trunk, *full, *subnetworks, *compact]
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


def _lean(
    layers: Iterable[nn.Module], full: Iterable[nn.Module], encoder_config: PreTrainedConfig
) -> list[Callable[..., Any]]:
    """Put lean layers in the place of those that may be of the common build."""
    sizes = layers_config(encoder_config)
    if sizes._attn_implementation != "sdpa":
        return list(layers)
    return [
        LeanLayer.of(layer, whole, encoder_config, head_size(sizes)) or layer
        for layer, whole in zip(layers, full, strict=True)
    ]
