"""A sub-network with weights of its own, cut out of the full network by importance: those of the recipe ``sharcs+``.

It leaves the full network as it is. Heads and feed-forward neurons are cut, and the hidden size stays, as in DynaBERT
(Hou et al., NeurIPS 2020, section 2.1): it starts close to the full network, whose hidden states it can read as they
are, and whose norms and head fit it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sharcs.encoders.architectures import head_groups, head_size, layers_config
from sharcs.encoders.layers import parts_of
from sharcs.encoders.narrow import Cut, map_arguments, states_of
from sharcs.training.importance import keep_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from transformers import PreTrainedConfig

    from sharcs.encoders.narrow import Arguments
    from sharcs.training.importance import Importance

__all__ = ["PrivateSubnetwork"]

# What attentions call the number of their heads, and the size of all of them together.
COUNTS, SIZES = ("num_attention_heads", "num_heads", "n_heads"), ("all_head_size",)


class PrivateSubnetwork(nn.Module):
    """Layers k+1..L of one narrow width.

    Args:
        layers: Layers k+1..L of the full network.
        config: The narrowed configuration; its hidden size is the full one.
        encoder_config: The full encoder's.

    Raises:
        InputError: If the layers were changed since the encoder was wrapped (adapters, say).
    """

    kept_heads: Tensor

    def __init__(
        self, layers: Sequence[nn.Module], config: PreTrainedConfig, encoder_config: PreTrainedConfig
    ) -> None:
        """Cut the first heads and neurons out of the layers."""
        super().__init__()
        sizes = layers_config(encoder_config)
        self.num_heads, self.head_groups = int(sizes.num_attention_heads), head_groups(sizes)
        self.config, self.encoder_config = config, encoder_config
        # Which of the full network's heads each layer has: position biases are handed to it for all of them.
        self.register_buffer("kept_heads", torch.arange(config.num_attention_heads).repeat(len(layers), 1))
        self.layers = nn.ModuleList(self._cut(layer) for layer in layers)
        for module in self.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]  # else transformers initialises them anew

    @torch.no_grad()
    def fill(self, layers: Sequence[nn.Module], importance: Importance | None = None) -> None:
        """Start anew from the full network: what is most important of it, or without scores what comes first."""
        for position, (layer, own) in enumerate(zip(layers, self.layers, strict=True)):
            groups = None if importance is None else _descending(importance.heads[position])
            neurons = None if importance is None else _descending(importance.neurons[position])
            for tensor, value in zip(own.parameters(), self._cut(layer, groups, neurons).parameters(), strict=True):
                tensor.copy_(value)
            heads = torch.arange(self.num_heads).view(self.head_groups, -1)
            chosen = heads if groups is None else heads[groups.cpu()]
            self.kept_heads[position] = chosen.flatten()[: self.kept_heads.shape[1]]

    def forward(
        self, hidden: Tensor, arguments: list[Arguments], layers: list[Callable[..., Any]] | None = None
    ) -> Tensor:
        """Run it: ``[batch, tokens, hidden]`` in and out.

        Args:
            hidden: Output of layer k.
            arguments: What the encoder hands to each layer besides, by position and by name.
            layers: What runs in the place of its layers.
        """
        running: Iterable[Callable[..., Any]] = layers or self.layers
        for layer, heads, given in zip(running, self.kept_heads, arguments, strict=True):
            args, kwargs = map_arguments(given, Cut(self.num_heads, heads))
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
                    own = keep_units(tensor, 0, len(order), order[:kept], projection.blocks)
                    setattr(projection.linear, name, nn.Parameter(own))
                projection.linear.out_features = len(projection.linear.weight)
            back.weight = nn.Parameter(keep_units(back.weight, 1, len(order), order[:kept]))
            back.in_features = back.weight.shape[1]
        self._tell_sizes(layer)
        return layer

    def _tell_sizes(self, layer: nn.Module) -> None:
        """Correct what a layer's modules know of the number of heads."""
        size, heads = head_size(self.config), int(self.config.num_attention_heads)
        known = dict.fromkeys(COUNTS, (self.num_heads, heads))
        known |= dict.fromkeys(SIZES, (self.num_heads * size, heads * size))
        for module in layer.modules():
            if hasattr(module, "config"):
                # One for all layers, which they read whenever they run.
                module.__dict__["config"] = self.config
            for name, (full, narrow) in known.items():
                if getattr(module, name, None) == full:
                    setattr(module, name, narrow)


def _descending(scores: Tensor) -> Tensor:
    return scores.argsort(descending=True, stable=True)
