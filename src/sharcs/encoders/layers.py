"""What narrowing needs to find in an encoder: its layers and the roles inside them; and what it can't narrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from sharcs.encoders.architectures import architecture_of, body_of, head_groups, head_size, layers_config
from sharcs.encoders.narrow import is_norm
from sharcs.errors import EncoderError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer whose rows belong to heads or to feed-forward neurons.

    Attributes:
        linear: The layer.
        blocks: How many times its rows go through all of them: 3 where query, key and value are fused.
    """

    linear: nn.Linear
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class LayerParts:
    """The linear layers inside one encoder layer, by their roles.

    Attributes:
        inputs: Query, key and value; their rows belong to heads.
        output: The attention's output projection; its columns belong to heads.
        up: Their rows are the feed-forward neurons; two where a gate has a projection of its own.
        down: Its columns are.
    """

    inputs: list[Projection]
    output: nn.Linear
    up: list[Projection]
    down: nn.Linear


def find_layers(encoder: PreTrainedModel) -> nn.ModuleList:
    """Find the encoder's own list of layers: the one list of L modules of one class in its base model.

    Raises:
        EncoderError: If there is none, or more than one.
    """
    body, architecture = body_of(encoder), architecture_of(encoder.config)
    if architecture.repeated_layers is not None:
        return body.get_submodule(architecture.repeated_layers)  # type: ignore[return-value]
    convolutions = architecture.convolutions
    elsewhere = set(body.get_submodule(convolutions).modules()) if convolutions is not None else set()
    depth = layers_config(encoder.config).num_hidden_layers
    found = [
        module
        for module in body.modules()
        if module not in elsewhere
        and isinstance(module, nn.ModuleList)
        and len(module) == depth
        and len({type(m) for m in module}) == 1
    ]
    if len(found) != 1:
        raise refusal(encoder, f"{len(found)} lists of {depth} equal layers, and narrowing needs one")
    return found[0]


def in_order(layers: nn.ModuleList, config: PreTrainedConfig) -> list[nn.Module]:
    """List what runs as layers 1..L: the modules, or each of a few several times."""
    depth = layers_config(config).num_hidden_layers
    return [layers[int(position / (depth / len(layers)))] for position in range(depth)]  # as ALBERT rounds


def replace_layers(encoder: PreTrainedModel, layers: nn.Module, replacement: nn.Module) -> None:
    """Put ``replacement`` into the place where the encoder keeps ``layers``."""
    for module in encoder.modules():
        for name, child in module.named_children():
            if child is layers:
                setattr(module, name, replacement)


def layer_parts(layer: nn.Module, config: PreTrainedConfig) -> LayerParts | None:
    """Tell the roles from shapes and definition order, which the supported architectures share.

    Args:
        layer: One encoder layer of the full network.
        config: The encoder's configuration.

    Returns:
        The parts, or None if the layer is built in another way: unknown fused projections, adapters.
    """
    architecture, sizes = architecture_of(config), layers_config(config)
    hidden, all_heads = sizes.hidden_size, sizes.num_attention_heads * head_size(sizes)
    # Where heads share a key and a value, these are smaller than the query.
    from_hidden = {all_heads, head_groups(sizes) * head_size(sizes)} - {hidden}
    inputs: list[Projection] = []
    up: list[Projection] = []
    positions: list[Projection] = []
    square, wide, down, output = [], [], [], []
    for name, module in layer.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        last = name.rpartition(".")[-1]
        if last in architecture.fused_inputs:
            inputs.append(Projection(module, architecture.fused_inputs[last]))
        elif last in architecture.fused_up:
            up.append(Projection(module, architecture.fused_up[last]))
        elif last in architecture.position_projections:
            positions.append(Projection(module))
        elif module.in_features == module.out_features == hidden:
            square.append(module)
        elif module.in_features == hidden and module.out_features in from_hidden:
            inputs.append(Projection(module))
        elif module.in_features == all_heads != hidden == module.out_features:
            output.append(module)
        elif module.in_features == hidden:
            wide.append(module)
        elif module.out_features == hidden:
            down.append(module)
        else:
            return None
    if len(square) == 6 and not (inputs or up or wide or down):
        # A feed-forward size of d: the last two are its projections.
        square, wide, down = square[:4], [square[4]], [square[5]]
    if all_heads == hidden:
        square, output = square[:-1], square[-1:]
    inputs += [Projection(linear) for linear in square]
    up += [Projection(linear) for linear in wide]
    if sum(projection.blocks for projection in inputs) != 3 or len(output) != 1 or len(down) != 1:
        return None
    neurons = down[0].in_features
    if not 1 <= len(up) <= 2 or any(p.linear.out_features != p.blocks * neurons for p in up):
        return None
    return LayerParts(inputs=inputs + positions, output=output[0], up=up, down=down[0])


def parts_of(layers: Iterable[nn.Module], config: PreTrainedConfig) -> list[LayerParts]:
    """Tell the roles of some layers' linear layers.

    Raises:
        InputError: If the layers were changed since the encoder was wrapped.
    """
    found = [layer_parts(layer, config) for layer in layers]
    if any(parts is None for parts in found):
        raise InputError(
            f"{config.model_type}: its layers were changed, and the roles of their projections can't be told any "
            "more; wrap the encoder as it was before, or train by the recipe paper with importance_samples=0"
        )
    return [parts for parts in found if parts is not None]


def check_architecture(encoder: PreTrainedModel) -> None:
    """Refuse what prefix slices of the layers would compute wrongly.

    Raises:
        EncoderError: If the encoder has such a thing; the message names it.
    """
    config, architecture = encoder.config, architecture_of(encoder.config)
    layers = find_layers(encoder)
    inside = set(layers.modules())
    if any(layer_parts(layer, config) is None for layer in layers):
        raise refusal(encoder, "layers of another build than attention and feed-forward projections of their own")
    if any(hasattr(module, "set_attention_type") for module in inside):
        # The encoder switches its own layers between two kinds, and would not reach a sub-network's.
        raise refusal(encoder, "attention of another kind for long inputs")
    hidden = layers_config(config).hidden_size
    words = None
    if encoder.main_input_name == "input_ids":
        try:
            words = encoder.get_input_embeddings()
        except NotImplementedError:
            raise refusal(encoder, "no table of words") from None
    if getattr(config, "use_weighted_layer_sum", False):
        raise refusal(encoder, "a head that reads the output of every layer (use_weighted_layer_sum)")
    for name, module in body_of(encoder).named_modules():
        if module in inside or module is words or "embeddings" in name.split("."):
            continue
        harmless = any(f"{name}.".startswith(f"{known}.") for known in architecture.harmless_norms)
        if is_norm(module) and name != architecture.final_norm and not harmless:
            # The zeros behind a narrow output would change its statistics.
            raise refusal(encoder, f"a norm beside its layers ({name})")
        if isinstance(module, nn.Embedding) and module.embedding_dim == hidden and not architecture.hidden_arguments:
            raise refusal(encoder, f"embeddings that its layers read ({name})")


def refusal(encoder: PreTrainedModel, what: str) -> EncoderError:
    """Word the refusal of an architecture."""
    return EncoderError(
        f"{encoder.config.model_type}: the encoder has {what}; it can't be narrowed here, choose another encoder"
    )
