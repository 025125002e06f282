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

    def keep_initialisation(self) -> None:
        """Tell transformers that its weights have their first values: it would draw them anew."""
        for module in self.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]


def mean_over(states: Tensor, real: Tensor) -> Tensor:
    """Average over the real tokens: ``[batch, tokens, size]`` and ``[batch, tokens]`` to ``[batch, size]``."""
    weights = real.to(states.dtype).unsqueeze(-1)
    mean: Tensor = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    return mean
