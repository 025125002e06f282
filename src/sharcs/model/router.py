"""The router: a score for every width (paper, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharcs.subnetworks.base import mean_of_real_tokens


class Router(nn.Module):
    """Score every width for an input: Linear, ReLU, Linear on the mean of layer k's real tokens.

    Args:
        hidden_size: d of the full network.
        router_hidden_size: Neurons of the router's own hidden layer.
        num_widths: M, the number of logits.
    """

    def __init__(self, hidden_size: int, router_hidden_size: int, num_widths: int) -> None:
        """Create the two linear layers."""
        super().__init__()
        self.hidden = nn.Linear(hidden_size, router_hidden_size)
        self.output = nn.Linear(router_hidden_size, num_widths)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Map ``[batch, tokens, hidden]`` and the mask ``[batch, tokens]`` to logits ``[batch, widths]``."""
        pooled = mean_of_real_tokens(hidden, attention_mask)  # [batch, hidden]
        return self.output(torch.relu(self.hidden(pooled)))  # type: ignore[no-any-return]
