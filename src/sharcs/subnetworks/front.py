"""What a sub-network has to implement that answers from the input itself, before the encoder runs."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from sharcs.spec import SubnetworkSpec


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


def second_text(input_ids: Tensor, real: Tensor, token_type_ids: Tensor | None) -> Tensor:
    """Tell which tokens are of the second text of a pair: int64 ``[batch, tokens]``.

    Args:
        input_ids: ``[batch, tokens]``, padded behind.
        real: 1 where a token is real, of the same shape.
        token_type_ids: 1 in the second text, of the same shape; None where the encoder has none: then it is what
            follows the first separator, which is the token that the input ends with.
    """
    if token_type_ids is not None:
        return real * (token_type_ids != 0)
    last = input_ids.gather(1, (real.sum(1, keepdim=True) - 1).clamp(min=0))
    is_separator = (input_ids == last).long() * real
    return real * (is_separator.cumsum(1) - is_separator > 0)
