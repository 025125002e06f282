"""Narrow a layer: the same layer class from a smaller config, run on prefix slices of the full layer's weights.

Everything here is pure: nothing is changed in the layer or the config that is passed in (paper, section 3.2).
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from sharcs.encoders.architectures import (
    EPSILON_FIELDS,
    FEED_FORWARD_FIELDS,
    FEED_FORWARD_RATIO,
    head_groups,
    head_size,
    layers_config,
)
from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedConfig

    from sharcs.encoders.architectures import Architecture

# What an encoder hands to a layer besides the hidden states: by position, and by name.
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


def narrow_config(config: PreTrainedConfig, width: float, *, keeps_hidden: bool = False) -> PreTrainedConfig:
    """Scale hidden size, heads and feed-forward size by ``width``; the head size stays.

    Args:
        config: Configuration of the full encoder.
        width: Fraction of the heads, rounded to whole ones; of the groups that share a key and a value, if there are.
        keeps_hidden: Whether the hidden size stays, too.

    Returns:
        A new configuration of what the layers are built from.

    Raises:
        InputError: If the configuration names no feed-forward size that is known here.
    """
    full = layers_config(config)
    groups = head_groups(full)
    kept = round(width * groups)
    fraction = kept / groups
    narrow = copy.deepcopy(full)
    narrow.num_attention_heads = round(full.num_attention_heads * fraction)
    if keeps_hidden:
        narrow.head_dim = head_size(full)
    else:
        narrow.hidden_size = round(full.hidden_size * fraction)
    if getattr(full, "num_key_value_heads", None) is not None:
        narrow.num_key_value_heads = kept
    field = feed_forward_field(full)
    if field is not None:
        setattr(narrow, field, max(1, round(getattr(full, field) * fraction)))
    elif not hasattr(full, FEED_FORWARD_RATIO):
        raise InputError(
            f"{config.model_type}: the config has no feed-forward size ({' or '.join(FEED_FORWARD_FIELDS)}), "
            "so its layers can't be narrowed; choose another encoder"
        )
    return narrow


def feed_forward_field(config: PreTrainedConfig) -> str | None:
    """Name the field of a layers' configuration that holds the feed-forward size, if one does."""
    present = [name for name in FEED_FORWARD_FIELDS if isinstance(getattr(config, name, None), int)]
    # A configuration keeps whatever a file names; what its class declares is what the layers are built from.
    declared = [name for name in present if hasattr(type(config), name)]
    return next(iter(declared or present), None)


def feed_forward_size(config: PreTrainedConfig) -> int:
    """Count the feed-forward neurons of a layer, from the configuration that it is built from."""
    field = feed_forward_field(config)
    if field is not None:
        return int(getattr(config, field))
    return int(config.hidden_size * getattr(config, FEED_FORWARD_RATIO))


def entry_norm(config: PreTrainedConfig) -> nn.LayerNorm:
    """Make the norm at the cut, private to every narrow width, from the narrowed configuration."""
    found = (getattr(config, name) for name in EPSILON_FIELDS if hasattr(config, name))
    return nn.LayerNorm(config.hidden_size, eps=next(found, 1e-12))


def build_twin(layer: nn.Module, config: PreTrainedConfig, index: int) -> nn.Module:
    """Build ``layer``'s class from a narrow config, without memory for its weights.

    Args:
        layer: A layer of the full encoder.
        config: The narrowed configuration.
        index: The layer's position in the encoder, for classes that ask for it.

    Returns:
        The twin, on the meta device: it has shapes but no values, and is run with :func:`slice_parameters`.
    """
    wants_index = "layer_idx" in inspect.signature(type(layer)).parameters
    with torch.device("meta"):
        return type(layer)(config, layer_idx=index) if wants_index else type(layer)(config)


def prefix(tensor: Tensor, shape: torch.Size, blocks: int = 1) -> Tensor:
    """Cut the leading corner of ``tensor`` that has ``shape``; gradients land in the full tensor.

    Args:
        tensor: A weight or a bias.
        shape: What the narrow layer has in its place.
        blocks: How many projections it holds behind each other, from each of which the corner is cut.
    """
    if tensor.shape == shape:
        return tensor
    if blocks > 1:
        rows = shape[0] // blocks
        each: Tensor = tensor.unflatten(0, (blocks, -1))
        return each[(slice(None), slice(rows), *(slice(size) for size in shape[1:]))].flatten(0, 1)
    return tensor[tuple(slice(0, size) for size in shape)]


def slice_parameters(layer: nn.Module, twin: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """Map every parameter and buffer name of ``twin`` to the prefix slice of ``layer``'s tensor of that name.

    The twin's own shapes say where to cut. The weights are shared: slices are views, but for projections that are
    fused into one.
    """
    full = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    blocks = {**architecture.fused_inputs, **architecture.fused_up}
    return {
        name: prefix(full[name], narrow.shape, blocks.get(name.split(".")[-2], 1) if "." in name else 1)
        for name, narrow in named_tensors(twin)
    }


def norm_names(layer: nn.Module) -> list[str]:
    """Name the normalisation modules inside ``layer``, in definition order."""
    return [name for name, module in layer.named_modules() if is_norm(module)]


def is_norm(module: nn.Module) -> bool:
    """Tell a normalisation by its class's name: some encoders bring their own. Layers may be named after theirs."""
    return "Norm" in type(module).__name__ and next(module.children(), None) is None


@dataclass(frozen=True, slots=True)
class ArgumentSlicer:
    """What of the full network a narrow layer has, to cut what an encoder hands to each of its layers.

    Attributes:
        num_heads: Heads of the full network.
        heads: Those that the narrow layer has.
        hidden: The hidden dimensions that it has; None for all.
        hidden_arguments: See :class:`~sharcs.encoders.architectures.Architecture`.
    """

    num_heads: int
    heads: slice | Tensor
    hidden: slice | None = None
    hidden_arguments: tuple[str, ...] = ()

    def __call__(self, name: str | int, value: Any) -> Any:
        """Cut one argument.

        Position biases carry the heads in their second dimension, ``[batch, heads, queries, keys]``; masks have size
        1 there, and everything else passes as it is.
        """
        if self.hidden is not None and name in self.hidden_arguments and value is not None:
            return value[..., self.hidden]
        return value[:, self.heads] if carries_heads(value, self.num_heads) else value


def carries_heads(value: Any, num_heads: int) -> bool:
    """Tell whether what an encoder hands to a layer has a part for each head: ``[batch, heads, queries, keys]``."""
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == num_heads > 1


def map_arguments(given: Arguments, change: Callable[[str | int, Any], Any]) -> Arguments:
    """Change each argument of a layer, of which ``change`` is told the name, or the position, and the value."""
    args, kwargs = given
    return (
        tuple(change(position, value) for position, value in enumerate(args)),
        {name: change(name, value) for name, value in kwargs.items()},
    )


def states_of(output: Any) -> Tensor:
    """Take the hidden states from what a layer returns: a tensor, or a tuple that starts with it."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Iterate over parameters, then buffers."""
    yield from module.named_parameters()
    yield from module.named_buffers()
