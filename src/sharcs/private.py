"""A sub-network with weights of its own, cut out of the full network by importance: those of the recipe ``sharcs+``.

It leaves the full network as it is, and holds little: a width of 0.25 has a sixteenth of the weights of every layer.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.importance import permute_heads, permute_neurons
from sharcs.layers import layer_parts
from sharcs.narrow import build_layer, named_tensors, narrow_argument, norm_names, slice_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

    from sharcs.importance import Importance

__all__ = ["PrivateSubnetwork"]


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

    def __init__(
        self,
        layers: Sequence[nn.Module],
        config: PreTrainedConfig,
        encoder_config: PreTrainedConfig,
        first_index: int,
    ) -> None:
        """Build the modules and fill them from the first dimensions, heads and neurons."""
        super().__init__()
        narrow, self.num_heads = int(config.hidden_size), int(encoder_config.num_attention_heads)
        self.config = config
        self.cut = nn.Linear(encoder_config.hidden_size, narrow)
        self.norm = nn.LayerNorm(narrow, eps=getattr(encoder_config, "layer_norm_eps", 1e-12))
        self.layers = nn.ModuleList(build_layer(layer, config, first_index + i) for i, layer in enumerate(layers))
        self.exit = nn.Linear(narrow, encoder_config.hidden_size)
        # Which of the full network's heads each layer has: position biases are handed to it for all of them.
        self.register_buffer("kept_heads", torch.arange(config.num_attention_heads).repeat(len(layers), 1))
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
        for position, (layer, narrow_layer) in enumerate(zip(layers, self.layers, strict=True)):
            heads = _descending(None if importance is None else importance.heads[position], self.num_heads)
            self.kept_heads[position] = heads[: self.kept_heads.shape[1]]
            if importance is not None:
                layer = _reordered(layer, order, heads, importance.neurons[position])
            values = slice_parameters(layer, narrow_layer)
            for name, tensor in named_tensors(narrow_layer):
                tensor.copy_(values[name])

    def forward(self, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it: ``[batch, tokens, hidden]`` in and out, in a tuple if the layers return tuples.

        Args:
            hidden: Output of layer k.
            args: What the encoder hands to each layer besides, by position.
            kwargs: The same, by name.
        """
        output: Any = self.norm(self.cut(hidden))
        for layer, heads in zip(self.layers, self.kept_heads, strict=True):
            states = output[0] if isinstance(output, tuple) else output
            own_args = [narrow_argument(value, self.num_heads, heads) for value in args]
            own_kwargs = {name: narrow_argument(value, self.num_heads, heads) for name, value in kwargs.items()}
            output = layer(states, *own_args, **own_kwargs)
        if isinstance(output, tuple):
            return (self.exit(output[0]), *output[1:])
        return self.exit(output)


def _descending(scores: Tensor | None, count: int) -> Tensor:
    return torch.arange(count) if scores is None else scores.argsort(descending=True, stable=True)


def _reordered(layer: nn.Module, hidden: Tensor, heads: Tensor, neurons: Tensor) -> nn.Module:
    """Copy a layer with its parts in another order; its hidden states are in another one, too."""
    layer = copy.deepcopy(layer)
    parts = layer_parts(layer, len(hidden))
    assert parts is not None  # checked when importance was measured
    permute_heads(parts, heads)
    permute_neurons(parts, _descending(neurons, len(neurons)))
    for linear in (*parts.inputs, parts.up):
        linear.weight.copy_(linear.weight[:, hidden])
    norms = [layer.get_submodule(name) for name in norm_names(layer)]
    for module in (parts.output, parts.down, *norms):
        for tensor in module.parameters(recurse=False):
            tensor.copy_(tensor[hidden])
    return layer
