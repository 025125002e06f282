"""What narrowing needs to find in an encoder: its layers and the roles inside them; and what it can't narrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from sharcs.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LayerParts", "check_architecture", "find_layers", "layer_parts", "replace_layers"]


@dataclass(frozen=True, slots=True)
class LayerParts:
    """The linear layers inside one encoder layer, by their roles.

    Attributes:
        inputs: Query, key and value; their rows belong to heads.
        output: The attention's output projection; its columns belong to heads.
        up: Its rows are the feed-forward neurons.
        down: Its columns are.
    """

    inputs: list[nn.Linear]
    output: nn.Linear
    up: nn.Linear
    down: nn.Linear


def find_layers(encoder: PreTrainedModel) -> nn.ModuleList:
    """Find the encoder's own list of layers: the one list of L modules of one class in its base model.

    Raises:
        InputError: If there is none, or more than one.
    """
    depth = encoder.config.num_hidden_layers
    found = [
        module
        for module in encoder.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and len({type(m) for m in module}) == 1
    ]
    if len(found) != 1:
        raise refusal(encoder, f"{len(found)} lists of {depth} equal layers, and narrowing needs one")
    return found[0]


def replace_layers(encoder: PreTrainedModel, layers: nn.ModuleList, replacement: nn.ModuleList) -> None:
    """Put ``replacement`` into the place where the encoder keeps ``layers``."""
    for module in encoder.modules():
        for name, child in module.named_children():
            if child is layers:
                setattr(module, name, replacement)


def layer_parts(layer: nn.Module, hidden: int) -> LayerParts | None:
    """Tell the roles from shapes and definition order, which the supported architectures share.

    Args:
        layer: One encoder layer.
        hidden: d of the full network.

    Returns:
        The parts, or None if the layer is built in another way: fused projections, gates, adapters.
    """
    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    square = [m for m in linears if m.in_features == m.out_features == hidden]
    up = [m for m in linears if m.in_features == hidden and m not in square]
    down = [m for m in linears if m.out_features == hidden and m not in square]
    if len(square) == 6 and not up and not down:
        # A feed-forward size of d: the last two are its projections.
        square, up, down = square[:4], [square[4]], [square[5]]
    if (len(square), len(up), len(down), len(linears)) != (4, 1, 1, 6):
        return None
    return LayerParts(inputs=square[:3], output=square[3], up=up[0], down=down[0])


def check_architecture(encoder: PreTrainedModel) -> None:
    """Refuse what prefix slices of the layers would compute wrongly.

    Raises:
        InputError: If the encoder has such a thing; the message names it.
    """
    hidden = encoder.config.hidden_size
    layers = find_layers(encoder)
    inside = set(layers.modules())
    if any(layer_parts(layer, hidden) is None for layer in layers):
        raise refusal(
            encoder,
            "layers of another build than query, key, value, output and two feed-forward projections of their own",
        )
    for name, module in encoder.base_model.named_modules():
        if module in inside or "embeddings" in name.split("."):
            continue
        if "Norm" in type(module).__name__:
            # The zeros behind a narrow output would change its statistics.
            raise refusal(encoder, f"a norm beside its layers ({name})")
        if isinstance(module, nn.Embedding) and module.embedding_dim == hidden:
            raise refusal(encoder, f"embeddings that its layers read ({name})")


def refusal(encoder: PreTrainedModel, what: str) -> InputError:
    """Word the refusal of an architecture."""
    return InputError(
        f"{encoder.config.model_type}: the encoder has {what}; it can't be narrowed here, choose another encoder"
    )
