"""A sub-network with weights of its own, cut out of the full network by importance: those of the recipe ``sharcs+``.

It leaves the full network as it is. Heads and feed-forward neurons are cut, and the hidden size stays, as in DynaBERT
(Hou et al., NeurIPS 2020, section 2.1): it starts close to the full network, whose hidden states it can read as they
are, and whose norms and head fit it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.encoders.architectures import COUNT_ATTRIBUTES, SIZE_ATTRIBUTES, head_groups, head_size, layers_config
from sharcs.encoders.layers import parts_of
from sharcs.encoders.narrow import ArgumentSlicer, carries_heads, map_arguments, narrow_config, states_of
from sharcs.encoders.units import keep_units
from sharcs.subnetworks.base import EncoderSubnetwork, keep_initialisation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedConfig

    from sharcs.encoders.narrow import Arguments
    from sharcs.spec import SubnetworkSpec


class OwnSubnetwork(EncoderSubnetwork):
    """Layers k+1..L of one narrow width.

    Args:
        spec: Its description; its hidden size is the full one.
        layers: Layers k+1..L of the full network.
        encoder_config: The full encoder's.

    Raises:
        InputError: If the layers were changed since the encoder was wrapped (adapters, say).
    """

    layers: nn.ModuleList
    kept_heads: Tensor

    def __init__(self, spec: SubnetworkSpec, layers: Sequence[nn.Module], encoder_config: PreTrainedConfig) -> None:
        super().__init__(spec, narrow_config(encoder_config, spec.width, keeps_hidden=True))
        sizes = layers_config(encoder_config)
        self.num_heads = int(sizes.num_attention_heads)
        self.head_groups = head_groups(sizes)
        self.encoder_config = encoder_config
        # Which of the full network's heads each layer has: position biases are handed to it for all of them.
        self.register_buffer("kept_heads", torch.arange(self.config.num_attention_heads).repeat(len(layers), 1))
        self.layers = nn.ModuleList(self._cut(layer) for layer in layers)
        keep_initialisation(self)

    @torch.no_grad()
    def fill(self, layers: Sequence[nn.Module], orders: Sequence[tuple[Tensor, Tensor]] | None = None) -> None:
        """Start anew from the full network: what comes first of it, in an order that tells importance.

        Args:
            layers: Layers k+1..L of the full network.
            orders: For each layer, its head groups and its neurons, the most important first, int64 each; by default
                the order that they have.
        """
        for position, (layer, narrow) in enumerate(zip(layers, self.layers, strict=True)):
            groups, neurons = (None, None) if orders is None else orders[position]
            for tensor, value in zip(
                narrow.parameters(), self._cut(layer, groups, neurons).parameters(), strict=True
            ):
                tensor.copy_(value)
            heads = torch.arange(self.num_heads).view(self.head_groups, -1)
            chosen = heads if groups is None else heads[groups.cpu()]
            self.kept_heads[position] = chosen.flatten()[: self.kept_heads.shape[1]]

    def follow(self, attention: str) -> None:
        """Tell its layers, which read it whenever they run, of another attention implementation."""
        self.config._attn_implementation = attention

    def modules_of_layers(self) -> list[nn.Module]:
        """List what holds its layers' shapes."""
        return [self]

    def run(
        self, hidden: Tensor, arguments: list[Arguments], fast_layers: Sequence[Callable[..., Any]] | None = None
    ) -> Tensor:
        """Run it; see the base class."""
        layers: Sequence[Callable[..., Any]] = fast_layers or list(self.layers)
        for position, (layer, (args, kwargs)) in enumerate(zip(layers, arguments, strict=True)):
            # Few encoders do, and a text alone would feel the search for each layer's heads.
            if any(carries_heads(value, self.num_heads) for value in (*args, *kwargs.values())):
                slicer = ArgumentSlicer(self.num_heads, self.kept_heads[position])
                args, kwargs = map_arguments((args, kwargs), slicer)
            hidden = states_of(layer(hidden, *args, **kwargs))
        return hidden

    @torch.no_grad()
    def _cut(self, layer: nn.Module, groups: Tensor | None = None, neurons: Tensor | None = None) -> nn.Module:
        """Copy a layer with its first heads and neurons alone, or the first of another order."""
        kept_groups = head_groups(self.config)
        layer = copy.deepcopy(layer).requires_grad_(True)
        (parts,) = parts_of([layer], self.encoder_config)
        groups = torch.arange(self.head_groups) if groups is None else groups
        neurons = torch.arange(parts.down.in_features) if neurons is None else neurons
        kept_neurons = max(1, round(len(neurons) * kept_groups / self.head_groups))
        for projections, back, order, kept in (
            (parts.inputs, parts.output, groups, kept_groups),
            (parts.up, parts.down, neurons, kept_neurons),
        ):
            for projection in projections:
                for name, tensor in list(projection.linear.named_parameters()):
                    rows = keep_units(tensor, 0, len(order), order[:kept], projection.blocks)
                    setattr(projection.linear, name, nn.Parameter(rows))
                projection.linear.out_features = len(projection.linear.weight)
            back.weight = nn.Parameter(keep_units(back.weight, 1, len(order), order[:kept]))
            back.in_features = back.weight.shape[1]
        self._tell_sizes(layer)
        return layer

    def _tell_sizes(self, layer: nn.Module) -> None:
        """Correct what a layer's modules know of the number of heads."""
        size = head_size(self.config)
        heads = int(self.config.num_attention_heads)
        sizes = dict.fromkeys(COUNT_ATTRIBUTES, (self.num_heads, heads))
        sizes |= dict.fromkeys(SIZE_ATTRIBUTES, (self.num_heads * size, heads * size))
        for module in layer.modules():
            if hasattr(module, "config"):
                # One for all layers, which they read whenever they run.
                module.__dict__["config"] = self.config
            for name, (full, narrow) in sizes.items():
                if getattr(module, name, None) == full:
                    setattr(module, name, narrow)
