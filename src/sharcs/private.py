"""A sub-network with weights of its own, cut out of the full network by importance: those of the recipe ``sharcs+``.

It leaves the full network as it is, and holds little: a width of 0.25 has a sixteenth of the weights of every layer.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sharcs.architectures import architecture_of, head_groups, layers_config
from sharcs.importance import permute_heads, permute_neurons
from sharcs.layers import layer_parts
from sharcs.narrow import Cut, build_layer, map_arguments, named_tensors, slice_parameters, states_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

    from sharcs.importance import Importance
    from sharcs.narrow import Arguments

__all__ = ["PrivateSubnetwork", "entry_norm"]

# What architectures call the term that keeps a norm from dividing by zero.
EPSILON_FIELDS = ("layer_norm_eps", "norm_eps", "rms_norm_eps")


def entry_norm(config: PreTrainedConfig) -> nn.LayerNorm:
    """Make the norm at the cut, private to every narrow width, from the narrowed configuration."""
    found = (getattr(config, name) for name in EPSILON_FIELDS if hasattr(config, name))
    return nn.LayerNorm(config.hidden_size, eps=next(found, 1e-12))


class PrivateSubnetwork(nn.Module):
    """Layers k+1..L of one narrow width, between a learned cut and a learned way back to the full hidden size.

    The way back lets the encoder's own head, whatever it is made of, read the answer.

    Args:
        layers: Layers k+1..L of the full network.
        config: The narrowed configuration.
        encoder_config: The full encoder's.
        first_index: k, the first layer's position.
    """

    kept_heads: Tensor
    kept_hidden: Tensor

    def __init__(
        self,
        layers: Sequence[nn.Module],
        config: PreTrainedConfig,
        encoder_config: PreTrainedConfig,
        first_index: int,
    ) -> None:
        """Build the modules and fill them from the first dimensions, heads and neurons."""
        super().__init__()
        narrow, sizes = int(config.hidden_size), layers_config(encoder_config)
        self.num_heads, self.head_groups = int(sizes.num_attention_heads), head_groups(sizes)
        self.config, self.encoder_config = config, encoder_config
        self.architecture = architecture_of(encoder_config)
        self.cut = nn.Linear(sizes.hidden_size, narrow)
        self.norm = entry_norm(config)
        self.layers = nn.ModuleList(build_layer(layer, config, first_index + i) for i, layer in enumerate(layers))
        self.exit = nn.Linear(narrow, sizes.hidden_size)
        # Which of the full network's heads each layer has: position biases are handed to it for all of them.
        self.register_buffer("kept_heads", torch.arange(config.num_attention_heads).repeat(len(layers), 1))
        # And which hidden dimensions: some encoders hand embeddings to every layer.
        self.register_buffer("kept_hidden", torch.arange(narrow))
        self.fill(layers)
        for module in self.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]  # else transformers initialises them anew

    @torch.no_grad()
    def fill(self, layers: Sequence[nn.Module], importance: Importance | None = None) -> None:
        """Start anew from the full network: what is most important of it, or without scores what comes first."""
        hidden, narrow = self.exit.out_features, self.exit.in_features
        order = _descending(None if importance is None else importance.hidden, hidden)
        kept, own = order[:narrow], torch.arange(narrow, device=order.device)
        for linear, rows, columns in ((self.cut, own, kept), (self.exit, kept, own)):
            linear.weight.zero_()
            linear.weight[rows, columns] = 1
            linear.bias.zero_()
        self.norm.reset_parameters()
        self.kept_hidden.copy_(kept)
        for position, (layer, narrow_layer) in enumerate(zip(layers, self.layers, strict=True)):
            groups = _descending(None if importance is None else importance.heads[position], self.head_groups)
            heads = torch.arange(self.num_heads, device=groups.device).view(self.head_groups, -1)[groups].flatten()
            self.kept_heads[position] = heads[: self.kept_heads.shape[1]]
            if importance is not None:
                layer = self._reordered(layer, order, groups, importance.neurons[position])
            values = slice_parameters(layer, narrow_layer, self.architecture)
            for name, tensor in named_tensors(narrow_layer):
                tensor.copy_(values[name])

    def forward(self, hidden: Tensor, arguments: list[Arguments]) -> Tensor:
        """Run it: ``[batch, tokens, hidden]`` in and out.

        Args:
            hidden: Output of layer k.
            arguments: What the encoder hands to each layer besides, by position and by name.
        """
        hidden = self.norm(self.cut(hidden))
        for layer, heads, given in zip(self.layers, self.kept_heads, arguments, strict=True):
            cut = Cut(self.num_heads, heads, self.kept_hidden, self.architecture.hidden_arguments)
            args, kwargs = map_arguments(given, cut)
            hidden = states_of(layer(hidden, *args, **kwargs))
        return self.exit(hidden)  # type: ignore[no-any-return]

    def _reordered(self, layer: nn.Module, hidden: Tensor, groups: Tensor, neurons: Tensor) -> nn.Module:
        """Copy a layer with its parts in another order; its hidden states are in another one, too."""
        layer = copy.deepcopy(layer)
        parts = layer_parts(layer, self.encoder_config)
        assert parts is not None  # checked when importance was measured
        permute_heads(parts, groups)
        permute_neurons(parts, _descending(neurons, len(neurons)))
        for projection in (*parts.inputs, *parts.up):
            projection.linear.weight.copy_(projection.linear.weight[:, hidden])
        narrowed = {id(tensor) for part in (*parts.inputs, *parts.up) for tensor in part.linear.parameters()}
        narrowed |= {id(parts.output.weight), id(parts.down.weight)}
        for part in (parts.output, parts.down):
            part.weight.copy_(part.weight[hidden])
        # Biases of what leads back to the hidden states, norms, scales.
        for tensor in layer.parameters():
            if id(tensor) not in narrowed and tensor.shape == hidden.shape:
                tensor.copy_(tensor[hidden])
        return layer


def _descending(scores: Tensor | None, count: int) -> Tensor:
    return torch.arange(count) if scores is None else scores.argsort(descending=True, stable=True)
