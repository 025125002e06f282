"""What a routed classifier returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers.utils.generic import ModelOutput

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SharcsOutput"]


@dataclass
class SharcsOutput(ModelOutput):
    """What a routed classifier returns.

    Attributes:
        loss: Task loss, a scalar, when labels were given.
        logits: ``[batch, labels]``; of token classification ``[batch, tokens, labels]``; of question answering
            there are none.
        start_logits: Of question answering alone, ``[batch, tokens]``: where the answer starts.
        end_logits: And where it ends, ``[batch, tokens]``. Padding has scores, too, as the plain model gives them.
        router_logits: ``[batch, widths]``, before the policy.
        width_index: Index into ``config.widths`` of the sub-network that answered each input, int64 ``[batch]``.
        first_width_index: Where the policy escalates: the sub-network that each input ran first, int64
            ``[batch]``. It differs from ``width_index`` for the inputs that continued at full width.
        width_logits: ``[widths, batch, labels]``, of tokens ``[widths, batch, tokens, labels]``, of question
            answering ``[widths, batch, tokens, 2]`` with start and end; when all widths were asked for, and without
            the full one where only the narrow ones were.
        hidden: Output of layer k, ``[batch, tokens, hidden]``, when the trunk alone was asked for; there are no
            logits then.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    router_logits: Tensor | None = None
    width_index: Tensor | None = None
    first_width_index: Tensor | None = None
    width_logits: Tensor | None = None
    hidden: Tensor | None = None
