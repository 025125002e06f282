"""What single architectures do in a way of their own. Everything else is told from the modules themselves.

To support another encoder, wrap it and read what :func:`sharcs.encoders.layers.check_architecture` and
:mod:`sharcs.model.first_run` refuse; a line here is needed only where it does something that nothing of the others
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sharcs.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# What a module that leads to layer 1 returns: hidden states, the same transposed, or a pair that starts with them.
STATES, CHANNELS_FIRST, PAIR = "hidden states", "channels first", "pair"

# What configurations call the feed-forward size, which has no standard name in transformers' attribute maps.
FEED_FORWARD_FIELDS = ("intermediate_size", "hidden_dim")
FEED_FORWARD_RATIO = "mlp_ratio"  # of the hidden size: it scales by itself
# What configurations call the term that keeps a norm from dividing by zero.
EPSILON_FIELDS = ("layer_norm_eps", "norm_eps", "rms_norm_eps")
# What attentions call the number of their heads, and the size of all of them together.
COUNT_ATTRIBUTES = ("num_attention_heads", "num_heads", "n_heads")
SIZE_ATTRIBUTES = ("all_head_size",)
# Encoders that number positions from the padding token's id on.
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text")


def position_count(config: PreTrainedConfig) -> int | None:
    """Count the tokens that an encoder has positions for; None where its configuration sets no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not positions or positions < 1:
        return None
    pad = getattr(config, "pad_token_id", None) or 0
    return int(positions) - (pad + 1 if config.model_type in POSITIONS_AFTER_PADDING else 0)


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
        harmless_norms: Norms beside the layers that no sub-network's output goes through on its way to the head, or
            modules that hold some.
        hidden_arguments: What each layer is handed that has a column a hidden dimension and no row an input.
        unused: Modules that classification never runs, so that they cost nothing.
        repeated_layers: Where the encoder keeps a few layers that it runs several times each.
        skipped: What leads to layer 1 and isn't run for inputs that continue, and what each returns.
        special_tokens: Tokens of an image that are no patches.
        convolutions: The module whose convolutions, one after another, make frames of a wave.
        frame_heads: Linear layers of the task head that run on every token.
        once: Modules below the task head that run on one token an input, besides ``pooler``.
    """

    fused_inputs: Mapping[str, int] = field(default_factory=dict)
    fused_up: Mapping[str, int] = field(default_factory=dict)
    position_projections: tuple[str, ...] = ()
    final_norm: str | None = None
    harmless_norms: tuple[str, ...] = ()
    hidden_arguments: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    repeated_layers: str | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    special_tokens: int = 1
    convolutions: str | None = None
    frame_heads: tuple[str, ...] = ()
    once: tuple[str, ...] = ()


SPEECH = Architecture(
    harmless_norms=("feature_extractor", "feature_projection", "encoder.pos_conv_embed", "encoder.layer_norm"),
    skipped={"feature_extractor": CHANNELS_FIRST, "feature_projection": STATES, "encoder.pos_conv_embed": STATES},
    convolutions="feature_extractor",
    frame_heads=("projector",),
)
ARCHITECTURES = {
    "albert": Architecture(repeated_layers="encoder.albert_layer_groups"),
    # Its norm behind the layers leads to pooled states alone, which classification doesn't read.
    "clip": Architecture(harmless_norms=("pre_layrnorm", "post_layernorm")),
    "deberta-v2": Architecture(
        harmless_norms=("encoder.LayerNorm", "encoder.conv.LayerNorm"),
        hidden_arguments=("rel_embeddings",),
        position_projections=("pos_key_proj", "pos_query_proj"),
    ),
    "deit": Architecture(final_norm="layernorm", special_tokens=2),
    "dinov2": Architecture(final_norm="layernorm"),
    "esm": Architecture(final_norm="encoder.emb_layer_norm_after", unused=("contact_head",)),
    "eurobert": Architecture(final_norm="norm"),
    "hubert": SPEECH,
    "megatron-bert": Architecture(final_norm="encoder.ln"),
    "modernbert": Architecture(fused_inputs={"Wqkv": 3}, fused_up={"Wi": 2}, final_norm="final_norm"),
    # Its pooling head runs on the last hidden states, though classification doesn't read what it makes of them.
    "siglip": Architecture(final_norm="post_layernorm", harmless_norms=("head",), special_tokens=0, once=("head",)),
    "vit": Architecture(final_norm="layernorm"),
    "wav2vec2": replace(SPEECH, skipped={**SPEECH.skipped, "feature_projection": PAIR}),
}


def register_architecture(model_type: str, architecture: Architecture) -> None:
    """Say how an encoder differs that the table above doesn't know.

    Args:
        model_type: As its configuration names it.
        architecture: What is different.

    Raises:
        InputError: If the table knows it already.
    """
    if model_type in ARCHITECTURES:
        raise InputError(f"model_type {model_type!r}: is known already; leave it as it is")
    ARCHITECTURES[model_type] = architecture


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """Look up how an encoder's architecture differs; of most, in nothing."""
    found = ARCHITECTURES.get(config.model_type, Architecture())
    if getattr(config, "do_stable_layer_norm", False):
        # The norm stands behind the layers then, and before them otherwise.
        found = replace(found, final_norm="encoder.layer_norm")
    return found


def skipped_modules(encoder: PreTrainedModel) -> dict[str, str]:
    """Name what isn't run at all for inputs that continue, below the task head, and what each returns.

    Embeddings of text aren't among it: they run on one token, since what they return differs in size.
    """
    architecture = architecture_of(encoder.config)
    if encoder.main_input_name == "pixel_values" and not architecture.skipped:
        return {"embeddings": STATES}
    return dict(architecture.skipped)


def frames_of(config: PreTrainedConfig, samples: int) -> int:
    """Count the frames that the convolutions of an encoder of waves make of some samples."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def least_samples(config: PreTrainedConfig, frames: int) -> int:
    """Count the samples that the convolutions of an encoder of waves need at least to make some frames."""
    samples = frames
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples


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
