"""What a sub-network that runs inside the encoder has to implement."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedConfig

    from sharcs.encoders.narrow import Arguments
    from sharcs.spec import SubnetworkSpec


class EncoderSubnetwork(nn.Module):
    """Layers k+1..L at some width, run inside the encoder: from the output of layer k to the last layer's.

    Args:
        spec: Its description.
        config: The configuration that its layers are built from.

    Attributes:
        layers: Layers k+1..L, in their order.
    """

    layers: nn.ModuleList | list[nn.Module]

    def __init__(self, spec: SubnetworkSpec, config: PreTrainedConfig) -> None:
        super().__init__()
        self.spec = spec
        self.config = config

    @abstractmethod
    def run(
        self, hidden: Tensor, arguments: list[Arguments], fast_layers: Sequence[Callable[..., Any]] | None = None
    ) -> Tensor:
        """Run it on a whole batch.

        Args:
            hidden: Output of layer k, ``[batch, tokens, hidden]``.
            arguments: What the encoder hands to each layer besides, by position and by name.
            fast_layers: What runs in the place of its layers, prepared for inference.

        Returns:
            ``[batch, tokens, hidden]``, zeros behind a part that is narrower.
        """

    def normalise(self, hidden: Tensor) -> Tensor | None:
        """Apply the norm that stands in the place of the encoder's final one; None where the encoder's own does.

        Args:
            hidden: What the encoder's final norm is handed, ``[batch, tokens, hidden]``.
        """
        return None

    def contiguous_layers(self) -> list[nn.Module]:
        """List its layers with weights that lie one behind the other, in evaluation mode."""
        return list(self.layers)

    def modules_of_layers(self) -> list[nn.Module]:
        """List what holds its layers' shapes, for counting FLOPs."""
        return list(self.layers)

    def follow(self, attention: str) -> None:
        """Take over another attention implementation."""


def keep_initialisation(module: nn.Module) -> None:
    """Tell transformers that all weights in a module have their first values: it would draw them anew."""
    for part in module.modules():
        part._is_hf_initialized = True  # type: ignore[assignment]


def mean_of_real_tokens(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Average the hidden states over the tokens that are no padding.

    Args:
        hidden: ``[batch, tokens, hidden]``.
        attention_mask: ``[batch, tokens]``, non-zero where a token is real.

    Returns:
        ``[batch, hidden]``.
    """
    if attention_mask is None:
        return hidden.mean(1)
    mask = (attention_mask != 0).to(hidden.dtype).unsqueeze(-1)  # [batch, tokens, 1]
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
