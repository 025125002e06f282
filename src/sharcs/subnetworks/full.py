"""The full network: the encoder's own layers as they are, so that it computes what the encoder computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sharcs.encoders.narrow import states_of
from sharcs.subnetworks.base import EncoderSubnetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedConfig

    from sharcs.encoders.narrow import Arguments
    from sharcs.spec import SubnetworkSpec


class FullSubnetwork(EncoderSubnetwork):
    """Layers k+1..L of the encoder.

    Args:
        spec: Its description.
        config: The configuration that the layers are built from.
        layers: The encoder's own, which stay registered there.
    """

    def __init__(self, spec: SubnetworkSpec, config: PreTrainedConfig, layers: list[nn.Module]) -> None:
        super().__init__(spec, config)
        self._layers = (nn.ModuleList(layers),)  # in a tuple, so that they aren't registered a second time

    @property
    def layers(self) -> nn.ModuleList:  # type: ignore[override]
        """Layers k+1..L."""
        return self._layers[0]

    def run(
        self, hidden: Tensor, arguments: list[Arguments], fast_layers: Sequence[Callable[..., Any]] | None = None
    ) -> Tensor:
        """Run it; see the base class."""
        layers: Sequence[Callable[..., Any]] = fast_layers or list(self.layers)
        for layer, (args, kwargs) in zip(layers, arguments, strict=True):
            hidden = states_of(layer(hidden, *args, **kwargs))
        return hidden
