"""The description of a sub-network, as the configuration holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from sharcs.encoders.architectures import layers_config
from sharcs.encoders.narrow import feed_forward_size, narrow_config
from sharcs.errors import InputError
from sharcs_runtime.policy import names_of_widths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig

# Kinds: the encoder as it is; slices of its layers, as in the paper; layers with weights of their own, as in sharcs+.
FULL, SHARED, OWN = "full", "shared", "own"


@dataclass(frozen=True, slots=True)
class SubnetworkSpec:
    """The description of a sub-network.

    Attributes:
        name: By which policies, weights and exports call it.
        kind: ``full``, ``shared`` or ``own``.
        width: Fraction of the full network's heads.
        layers: How many layers an input runs through, the shared ones before the router included.
        heads: Attention heads of each layer that is its own.
        neurons: Feed-forward neurons of these.
        hidden: Hidden size of these.
        reads: ``hidden:k`` for the output of layer k, or ``tokens``.
        readout: What its answer is read by: ``head`` is the encoder's own.
    """

    name: str
    kind: str
    width: float
    layers: int
    heads: int
    neurons: int
    hidden: int
    reads: str
    readout: str = "head"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SubnetworkSpec:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: If something is missing, or not known to this version.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(values.keys() - known)
        missing = sorted(known - values.keys() - {"readout"})
        if unknown or missing:
            wrong = f"lacks {', '.join(missing)}" if missing else f"has the unknown {', '.join(unknown)}"
            raise InputError(f"subnetworks: {values.get('name', 'one')!r} {wrong}; train again, or update sharcs")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Write it as plain values."""
        return asdict(self)


def spec_of_width(encoder_config: PreTrainedConfig, width: float, weights: str, router_layer: int) -> SubnetworkSpec:
    """Describe the sub-network of a width of an encoder.

    Args:
        encoder_config: The full encoder's configuration.
        width: Fraction of its heads; 1.0 is the full network.
        weights: ``own`` or ``shared``, of a narrow one.
        router_layer: k, whose output it reads.

    Raises:
        InputError: If the configuration names no feed-forward size that is known.
    """
    is_full = width == 1.0
    full = layers_config(encoder_config)
    narrow = narrow_config(encoder_config, width, keeps_hidden=is_full or weights == OWN)
    fraction = narrow.num_attention_heads / full.num_attention_heads
    return SubnetworkSpec(
        name=names_of_widths([width])[0],
        kind=FULL if is_full else weights,
        width=width,
        layers=int(full.num_hidden_layers),
        heads=int(narrow.num_attention_heads),
        neurons=max(1, round(feed_forward_size(full) * fraction)),
        hidden=int(narrow.hidden_size),
        reads=f"hidden:{router_layer}",
    )
