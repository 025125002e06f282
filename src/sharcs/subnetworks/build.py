"""Sub-networks made from their descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharcs.encoders.architectures import layers_config
from sharcs.errors import InputError
from sharcs.spec import COMPACT, FULL, LEXICAL, OWN
from sharcs.subnetworks.compact import CompactSubnetwork
from sharcs.subnetworks.full import FullSubnetwork
from sharcs.subnetworks.lexical import LexicalSubnetwork
from sharcs.subnetworks.own import OwnSubnetwork
from sharcs.subnetworks.recurrent import RecurrentSubnetwork
from sharcs.subnetworks.shared import SharedSubnetwork

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from sharcs.spec import SubnetworkSpec
    from sharcs.subnetworks.base import EncoderSubnetwork
    from sharcs.subnetworks.front import FrontSubnetwork


def make_subnetwork(
    spec: SubnetworkSpec, layers: list[nn.Module], encoder: PreTrainedModel, final_norm: nn.Module | None
) -> EncoderSubnetwork:
    """Make one that runs inside the encoder.

    Args:
        spec: Its description.
        layers: Layers k+1..L of the full network.
        encoder: The full network.
        final_norm: The encoder's final norm, if it has one.
    """
    if spec.kind == FULL:
        return FullSubnetwork(spec, layers_config(encoder.config), layers)
    if spec.kind == OWN:
        return OwnSubnetwork(spec, layers, encoder.config)
    return SharedSubnetwork(spec, layers, encoder.config, final_norm)


def make_front(spec: SubnetworkSpec, layers: list[nn.Module], encoder: PreTrainedModel) -> FrontSubnetwork:
    """Make one that answers before the encoder runs.

    Args:
        spec: Its description.
        layers: All layers of the full network.
        encoder: The full network.

    Raises:
        InputError: If it reads tokens, and the encoder has none.
    """
    labels = int(encoder.config.num_labels or 0)
    if spec.kind == COMPACT:
        return CompactSubnetwork(spec, labels, layers, encoder.config)
    if encoder.main_input_name != "input_ids":
        raise InputError(f"front {spec.name}: reads the tokens of texts; of images and audio name {COMPACT} first")
    made = LexicalSubnetwork if spec.kind == LEXICAL else RecurrentSubnetwork
    return made(spec, labels, int(encoder.config.vocab_size or 0))
