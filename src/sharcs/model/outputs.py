"""What a routed network is told besides its inputs, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

from transformers.utils.generic import ModelOutput

if TYPE_CHECKING:
    from torch import Tensor


class RoutingKwargs(TypedDict, total=False):
    """What ``forward`` of every routed network takes besides inputs and labels."""

    width: float | str | None
    """Forces one sub-network for the whole batch, by its width or its name, in place of the routing policy."""
    width_index: Tensor | None
    """Forces a width for each input: int64 ``[batch]``, indices into ``config.widths``."""
    widths: Literal["all", "narrow", "front"] | None
    """``all`` runs every width on every input, layers 1..k once: the answer and ``loss`` are those of the full width,
    and ``width_logits`` has every width's. ``narrow`` leaves the full width out, and runs layers 1..k without a
    gradient: what trains sub-networks with weights of their own. ``front`` runs those alone that answer before the
    encoder. There are no answer and no ``loss`` then."""
    return_dict: bool | None
    """False for a plain tuple."""


@dataclass
class SharcsOutput(ModelOutput):
    """What a routed classifier returns.

    Attributes:
        loss: Task loss, a scalar, when labels were given.
        logits: ``[batch, labels]``; of token classification ``[batch, tokens, labels]``; of question answering
            there are none.
        start_logits: Of question answering alone, ``[batch, tokens]``: where the answer starts.
        end_logits: And where it ends, ``[batch, tokens]``. Padding has scores, too, as the plain model gives them.
        router_logits: ``[batch, widths]``, before the policy; −∞ for what stands in front of the encoder, and None
            where the policy starts there.
        width_index: Index into ``config.widths`` of the sub-network that answered each input, int64 ``[batch]``.
        first_width_index: Where the policy escalates: the sub-network that each input ran first, int64
            ``[batch]``. It differs from ``width_index`` for the inputs that continued at full width.
        width_logits: ``[widths, batch, labels]``, of tokens ``[widths, batch, tokens, labels]``, of question
            answering ``[widths, batch, tokens, 2]`` with start and end; when all widths were asked for, and without
            the full one where only the narrow ones were.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    router_logits: Tensor | None = None
    width_index: Tensor | None = None
    first_width_index: Tensor | None = None
    width_logits: Tensor | None = None


class TrunkOutput(NamedTuple):
    """What embeddings, layers 1..k and the router return.

    Attributes:
        hidden: Output of layer k, ``[batch, tokens, hidden]``; of images, tokens are patches, of waves frames.
        router_logits: ``[batch, widths]``, before the policy; None where the router didn't run.
        width_index: The sub-network that the policy has each input run first, int64 ``[batch]``.
    """

    hidden: Tensor
    router_logits: Tensor | None
    width_index: Tensor
