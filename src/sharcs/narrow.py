"""Narrow a layer: the same layer class from a smaller config, run on prefix slices of the full layer's weights.

Everything here is pure: nothing is changed in the layer or the config that is passed in (paper, section 3.2).
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig

__all__ = [
    "build_layer",
    "build_twin",
    "named_tensors",
    "narrow_argument",
    "narrow_config",
    "norm_names",
    "prefix",
    "slice_parameters",
]

# The feed-forward size has no standard name in transformers' attribute maps.
FEED_FORWARD_FIELDS = ("intermediate_size", "hidden_dim")


def narrow_config(config: PreTrainedConfig, width: float) -> PreTrainedConfig:
    """Scale hidden size, heads and feed-forward size by ``width``; the head size stays.

    Args:
        config: Configuration of the full encoder.
        width: Fraction of the heads, rounded to whole ones.

    Returns:
        A new configuration of the same class.

    Raises:
        InputError: If the configuration names no feed-forward size that is known here.
    """
    present = [name for name in FEED_FORWARD_FIELDS if isinstance(getattr(config, name, None), int)]
    # A configuration keeps whatever a file names; what its class declares is what the layers are built from.
    declared = [name for name in present if hasattr(type(config), name)]
    field = next(iter(declared or present), None)
    if field is None:
        raise InputError(
            f"{config.model_type}: the config has no feed-forward size ({' or '.join(FEED_FORWARD_FIELDS)}), "
            "so its layers can't be narrowed; choose another encoder"
        )
    heads = round(width * config.num_attention_heads)
    fraction = heads / config.num_attention_heads
    narrow = copy.deepcopy(config)
    narrow.num_attention_heads = heads
    narrow.hidden_size = round(config.hidden_size * fraction)
    setattr(narrow, field, max(1, round(getattr(config, field) * fraction)))
    return narrow


def build_layer(layer: nn.Module, config: PreTrainedConfig, index: int) -> nn.Module:
    """Build ``layer``'s class from a narrow config, with whatever values it starts with.

    Args:
        layer: A layer of the full encoder.
        config: The narrowed configuration.
        index: The layer's position in the encoder, for classes that ask for it.
    """
    wants_index = "layer_idx" in inspect.signature(type(layer)).parameters
    return type(layer)(config, layer_idx=index) if wants_index else type(layer)(config)


def build_twin(layer: nn.Module, config: PreTrainedConfig, index: int) -> nn.Module:
    """Build a layer as :func:`build_layer` does, without memory for its weights.

    Returns:
        The twin, on the meta device: it has shapes but no values, and is run with :func:`slice_parameters`.
    """
    with torch.device("meta"):
        return build_layer(layer, config, index)


def prefix(tensor: Tensor, shape: torch.Size) -> Tensor:
    """View the leading corner of ``tensor`` that has ``shape``; gradients land in the full tensor."""
    return tensor[tuple(slice(0, size) for size in shape)] if tensor.shape != shape else tensor


def slice_parameters(layer: nn.Module, twin: nn.Module) -> dict[str, Tensor]:
    """Map every parameter and buffer name of ``twin`` to the prefix slice of ``layer``'s tensor of that name.

    The twin's own shapes say where to cut. The slices are views, so the weights are shared.
    """
    full = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {name: prefix(full[name], narrow.shape) for name, narrow in named_tensors(twin)}


def norm_names(layer: nn.Module) -> list[str]:
    """Name the normalisation modules inside ``layer``, in definition order."""
    return [name for name, module in layer.named_modules() if "Norm" in type(module).__name__]


def narrow_argument(value: Any, heads: int, kept: slice | Tensor) -> Any:
    """Cut what an encoder hands to each of its layers besides the hidden states.

    Position biases carry the heads in their second dimension, ``[batch, heads, queries, keys]``; masks have size 1
    there and everything else passes as it is.

    Args:
        value: One argument.
        heads: Heads of the full network.
        kept: The heads that the narrow layer has.
    """
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == heads > 1:
        return value[:, kept]
    return value


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Iterate over parameters, then buffers."""
    yield from module.named_parameters()
    yield from module.named_buffers()
