"""What single architectures do in a way of their own. Everything else is told from the modules themselves.

To support another encoder, wrap it and read what :func:`sharcs.layers.check_architecture` and the trial of
:mod:`sharcs.trial` refuse; a line here is needed only where it does something that nothing of the others does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sharcs.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["Architecture", "architecture_of", "body_of", "head_groups", "head_size", "layers_config"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one architecture differs. All names are those of modules below the task head, or inside a layer.

    Attributes:
        fused_inputs: Linear layers of the attention whose rows hold several projections behind each other, and how
            many.
        fused_up: The same of the feed-forward part: its input and its gate.
        position_projections: Linear layers of the attention that relative positions go through, beside query, key,
            value and output.
        final_norm: The norm that the last layer's output goes through. A sub-network that shares weights has one of
            its own, since the zeros behind its output would change the statistics.
        harmless_norms: Norms beside the layers that no sub-network's output goes through on its way to the head.
        hidden_arguments: What each layer is handed that has a column a hidden dimension and no row an input.
        unused: Modules that classification never runs, so that they cost nothing.
        repeated_layers: Where the encoder keeps a few layers that it runs several times each.
        skipped: What leads to layer 1, besides ``embeddings``, and need not run for inputs that continue.
    """

    fused_inputs: Mapping[str, int] = field(default_factory=dict)
    fused_up: Mapping[str, int] = field(default_factory=dict)
    position_projections: tuple[str, ...] = ()
    final_norm: str | None = None
    harmless_norms: tuple[str, ...] = ()
    hidden_arguments: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    repeated_layers: str | None = None
    skipped: tuple[str, ...] = ()


ARCHITECTURES = {
    "albert": Architecture(repeated_layers="encoder.albert_layer_groups"),
    "deberta-v2": Architecture(
        harmless_norms=("encoder.LayerNorm", "encoder.conv.LayerNorm"),
        hidden_arguments=("rel_embeddings",),
        position_projections=("pos_key_proj", "pos_query_proj"),
    ),
    "esm": Architecture(final_norm="encoder.emb_layer_norm_after", unused=("contact_head",)),
    "eurobert": Architecture(final_norm="norm"),
    "modernbert": Architecture(fused_inputs={"Wqkv": 3}, fused_up={"Wi": 2}, final_norm="final_norm"),
}


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """Look up how an encoder's architecture differs; of most, in nothing."""
    return ARCHITECTURES.get(config.model_type, Architecture())


def body_of(encoder: PreTrainedModel) -> PreTrainedModel:
    """Find the part of an encoder below its task head, where layers and embeddings are."""
    body = encoder.base_model
    if body is encoder:
        # The vision towers of CLIP and SigLIP go by another name than their class says.
        inside = [child for child in encoder.children() if hasattr(child, "base_model")]
        body = inside[0] if len(inside) == 1 else encoder
    return body  # type: ignore[return-value]


def layers_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Find the part of an encoder's configuration that its layers are built from: of most, the whole.

    Raises:
        InputError: If there is none with a hidden size, heads and layers.
    """
    found: PreTrainedConfig = getattr(config, "vision_config", config)
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"):
        if not isinstance(getattr(found, name, None), int):
            raise InputError(
                f"{config.model_type}: the config has no {name}; it is no transformer encoder, choose one"
            )
    return found


def head_size(config: PreTrainedConfig) -> int:
    """Find the size of one attention head; of most encoders, all heads together have the hidden size.

    Args:
        config: The configuration that the layers are built from.
    """
    own = getattr(config, "head_dim", None)
    return int(config.hidden_size // config.num_attention_heads if own is None else own)


def head_groups(config: PreTrainedConfig) -> int:
    """Count the groups of attention heads that share a key and a value: of most encoders, every head is one.

    They stay together, so the groups are what a width has a whole number of.

    Args:
        config: The configuration that the layers are built from.
    """
    groups = getattr(config, "num_key_value_heads", None)
    return int(config.num_attention_heads if groups is None else groups)
