"""The description of a sub-network, as the configuration holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sharcs.encoders.architectures import head_groups, layers_config
from sharcs.encoders.narrow import feed_forward_size, narrow_config
from sharcs.errors import InputError
from sharcs_runtime.policy import names_of_widths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedConfig

# Kinds: the encoder as it is; slices of its layers, as in the paper; layers with weights of their own, as in sharcs+.
FULL, SHARED, OWN = "full", "shared", "own"
# Those that answer from the input itself, before layer 1: a few layers of their own, a recurrent network, and a
# linear classifier of the tokens.
COMPACT, RECURRENT, LEXICAL = "compact", "recurrent", "lexical"
TOKENS = "tokens"
AUTO = "auto"
# Of a recurrent one, numbers a token and units in each direction: these, or this part of a smaller hidden size. Of a
# compact one, fractions of layers and heads.
RECURRENT_SIZES = ((128, 2), (64, 4))
COMPACT_SHARES = (0.5, 0.25)
# Of a lexical one, numbers a token; places of its hash, and how many numbers all of them hold at most.
LEXICAL_SIZE, LEXICAL_PLACES, LEXICAL_NUMBERS = 256, 2**16, 2**23
MEAN, ALIGNED, MATCHED = "mean", "aligned", "matched"
# Of each kind in front. Files of before `matched` was there have `aligned` in its place, of a compact one `mean`.
FRONT_READOUTS = {LEXICAL: (MEAN, ALIGNED, MATCHED), RECURRENT: (MEAN, ALIGNED, MATCHED), COMPACT: (MEAN, MATCHED)}
FIRST = "first"  # of the encoder's own head: the first token, where the encoder has it


@dataclass(frozen=True, slots=True)
class SubnetworkSpec:
    """The description of a sub-network.

    Attributes:
        name: By which policies, weights and exports call it.
        kind: ``full``, ``shared``, ``own``, ``compact``, ``recurrent`` or ``lexical``.
        width: Fraction of the full network's heads; 0.0 of one that has none.
        layers: How many layers an input runs through, the shared ones before the router included.
        heads: Attention heads of each layer that is its own.
        neurons: Feed-forward neurons of these; of a recurrent one, its units in each direction; of a lexical one, the
            places of its hash.
        hidden: Hidden size of these; of a recurrent or lexical one, the numbers that stand for a token.
        reads: ``hidden:k`` for the output of layer k, or ``tokens``: these answer before the encoder runs, stand in
            front of all others, and an input that goes on from one starts anew.
        readout: What its answer is read by: ``head`` is the encoder's own, ``mean`` a classifier on the tokens' mean
            (of a recurrent one, on mean and maximum), ``aligned`` one on what two texts have of each other;
            ``matched`` is that, and a token that is in both texts counts as another one than where one has it alone.
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

    @property
    def is_front(self) -> bool:
        """Whether it answers from the input itself, before layer 1."""
        return self.reads == TOKENS

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


def sub_networks_of(names: str | Iterable[str | float] | None) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """Divide sub-networks into names of those in front of the encoder, and widths.

    Args:
        names: The cheapest first: ``lexical``, ``recurrent``, ``compact``, ascending widths, and ``full``, which
            is 1.0; or a string with commas between them; or ``auto``, which stands in front until
            :mod:`sharcs.jobs.shapes` has found what this machine runs. None for the usual ones, which
            :mod:`sharcs.jobs.defaults` fills in when the labels are known.

    Raises:
        InputError: If one is no name and no number, or one in front stands behind a width.
    """
    if names is None:
        return (), None
    listed = names.split(",") if isinstance(names, str) else names
    parts = [name.strip() if isinstance(name, str) else name for name in listed]
    if parts == [AUTO]:
        return (AUTO,), (1.0,)
    given = ",".join(map(str, parts))
    front = tuple(str(part) for part in parts if part in FRONT_READOUTS)
    if parts[: len(front)] != list(front):
        raise InputError(f"`sub_networks` {given}: name the cheapest first, full last: recurrent,compact,full")
    widths = []
    for part in parts[len(front) :]:
        try:
            widths.append(1.0 if part == FULL else float(part))
        except (TypeError, ValueError):
            name = "sub_networks" if front else "widths"
            raise InputError(
                f"`{name}` {given}: {str(part)!r} is no sub-network; write {', '.join(FRONT_READOUTS)}, widths like "
                f"0.25,1.0, and {FULL}"
            ) from None
    return front, tuple(widths)


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


def front_spec(
    encoder_config: PreTrainedConfig,
    kind: str,
    *,
    pairs: bool = False,
    times: float = 1,
    shares: tuple[float, float] = COMPACT_SHARES,
) -> SubnetworkSpec:
    """Describe a sub-network that answers before the encoder runs, by default of the usual size.

    Args:
        encoder_config: The full encoder's configuration.
        kind: ``lexical``, ``recurrent``, or ``compact``: half of the layers, a quarter of the heads and neurons.
        pairs: Whether inputs are pairs of texts, which are compared.
        times: The size of a recurrent one, as a multiple of the usual one's.
        shares: Of the layers, and of the heads and neurons, that a compact one has.

    Raises:
        InputError: If there is no such kind, or the encoder has too few heads.
    """
    full = layers_config(encoder_config)
    readout = MATCHED if pairs else MEAN
    if kind in (LEXICAL, RECURRENT):
        sizes = (
            _recurrent_sizes(int(full.hidden_size), times) if kind == RECURRENT else _lexical_sizes(encoder_config)
        )
        return SubnetworkSpec(kind, kind, 0.0, heads=0, reads=TOKENS, readout=readout, **sizes)
    if kind != COMPACT:
        raise InputError(
            f"sub-network {kind!r}: there is none; name {', '.join(FRONT_READOUTS)}, or a width like 0.25"
        )
    layers, width = shares
    groups = head_groups(full)
    width = max(1, round(width * groups)) / groups
    narrow = spec_of_width(encoder_config, width, OWN, 0) if width < 1 else None
    if narrow is None:
        raise InputError(f"sub-network {kind}: the encoder has one attention head, of which none can be cut")
    return replace(
        narrow, name=kind, kind=kind, layers=max(1, round(layers * narrow.layers)), reads=TOKENS, readout=readout
    )


def _recurrent_sizes(hidden: int, times: float) -> dict[str, int]:
    """Choose the sizes of a recurrent network, smaller ones for a small encoder."""
    size, units = (max(1, round(times * min(usual, hidden // part))) for usual, part in RECURRENT_SIZES)
    return {"layers": 1, "neurons": units, "hidden": min(size, hidden)}


def _lexical_sizes(encoder_config: PreTrainedConfig) -> dict[str, int]:
    """Choose the sizes of a lexical network: places a power of two, fewer where there are very many classes."""
    classes = max(1, int(encoder_config.num_labels or 1))
    places = min(LEXICAL_PLACES, 2 ** ((LEXICAL_NUMBERS // classes).bit_length() - 1))
    return {
        "layers": 0,
        "neurons": places,
        "hidden": min(LEXICAL_SIZE, int(layers_config(encoder_config).hidden_size)),
    }


def front_specs(
    encoder_config: PreTrainedConfig, given: Iterable[str | Mapping[str, Any]], *, pairs: bool = False
) -> list[SubnetworkSpec]:
    """Read names of kinds, or descriptions, of sub-networks that answer before the encoder runs."""
    return [
        front_spec(encoder_config, one, pairs=pairs) if isinstance(one, str) else SubnetworkSpec.from_dict(one)
        for one in given
    ]


def check_front(front: list[SubnetworkSpec], weights: str, problem_type: str | None) -> None:
    """Refuse sub-networks in front of the encoder that are unknown, or have no place there.

    Raises:
        InputError: If one is.
    """
    names = [spec.name for spec in front]
    if len(set(names)) < len(names):
        raise InputError(f"front {', '.join(names)}: one comes twice; give each a name of its own")
    if front and weights != OWN:
        raise InputError(f"front {', '.join(names)}: the paper's recipe has none; leave them out")
    if front and problem_type not in (None, "single_label_classification"):
        raise InputError(
            f"front {', '.join(names)}: answer with one class for each input; leave them out, and name widths like "
            "0.25,1.0"
        )
    for spec in front:
        if spec.readout not in FRONT_READOUTS.get(spec.kind, ()) or not spec.is_front:
            raise InputError(
                f"front {spec.name}: of kind {spec.kind} with readout {spec.readout} is not known; update sharcs"
            )
