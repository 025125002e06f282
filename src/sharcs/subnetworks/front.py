"""What a sub-network has to implement that answers from the input itself, before the encoder runs."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
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
