"""What a sub-network has to implement that answers from the input itself, before the encoder runs."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from sharcs.spec import ALIGNED, MATCHED

if TYPE_CHECKING:
    from torch import Tensor

    from sharcs.spec import SubnetworkSpec

DROPOUT = 0.2  # of what reads tokens


class FrontSubnetwork(nn.Module):
    """A classifier that stands in front of the encoder; an input that goes on from it starts anew.

    Args:
        spec: Its description.
        labels: How many classes there are.
    """

    def __init__(self, spec: SubnetworkSpec, labels: int) -> None:
        super().__init__()
        self.spec = spec
        self.labels = labels

    @abstractmethod
    def cost(self) -> tuple[float, float, float]:
        """Count its own FLOPs on T tokens, those of embeddings left out: c₀, c₁ and c₂ of c₀ + c₁·T + c₂·T²."""


class TokenSubnetwork(FrontSubnetwork):
    """One that reads tokens by vectors of its own, and compares pairs if its readout is ``aligned`` or ``matched``.

    Args:
        spec: Its description.
        labels: How many classes there are.
        vocabulary: How many tokens there are.
    """

    def __init__(self, spec: SubnetworkSpec, labels: int, vocabulary: int) -> None:
        super().__init__(spec, labels)
        self.compares = spec.readout in (ALIGNED, MATCHED)
        self.matches = spec.readout == MATCHED
        self.vectors = nn.Embedding(vocabulary, spec.hidden)
        self.dropout = nn.Dropout(DROPOUT)

    @abstractmethod
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Classify a batch.

        Args:
            input_ids: ``[batch, tokens]``, padded behind.
            attention_mask: Non-zero where a token is real, ``[batch, tokens]``; None if all are.
            token_type_ids: 1 in the second text, ``[batch, tokens]``; where the encoder has none, the second text is
                what follows the first separator, which is the token that the input ends with.

        Returns:
            Logits, ``[batch, labels]``.
        """

    def _texts_of(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Tell which tokens are real, and which of them are of the second text, if texts are compared.

        The arguments are those of :meth:`forward`.

        Returns:
            1 where they are, int64 ``[batch, tokens]`` each.
        """
        if self.compares:
            return texts_of_pairs(input_ids, attention_mask, token_type_ids)
        return real_tokens(input_ids, attention_mask), None


def real_tokens(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Tell which tokens are real: 1 where they are, int64 ``[batch, tokens]``."""
    return torch.ones_like(input_ids) if attention_mask is None else (attention_mask != 0).long()


def texts_of_pairs(
    input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Tell which tokens are real, and which of them are of the second text: see :meth:`TokenSubnetwork.forward`."""
    real = real_tokens(input_ids, attention_mask)
    if token_type_ids is not None:
        return real, real * (token_type_ids != 0)
    last = input_ids.gather(1, (real.sum(1, keepdim=True) - 1).clamp(min=0))
    is_separator = (input_ids == last).long() * real
    return real, real * (is_separator.cumsum(1) - is_separator > 0)


def in_both_texts(input_ids: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Tell which tokens of a pair the other text has, too.

    Args:
        input_ids: ``[batch, tokens]``.
        first: 1 where a token is of the first text, int64 ``[batch, tokens]``.
        second: The same of the second.

    Returns:
        1 where it has, int64 ``[batch, tokens]``.
    """
    same = (input_ids.unsqueeze(2) == input_ids.unsqueeze(1)).long()
    other = first.unsqueeze(2) * second.unsqueeze(1) + second.unsqueeze(2) * first.unsqueeze(1)
    return (same * other).amax(2)
