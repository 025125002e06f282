"""The router, and the policy that turns its logits into a width (paper, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sharcs.config import RoutingPolicy

__all__ = ["Router", "blended", "choose_width", "confidence", "mean_of_real_tokens", "unsure"]


def mean_of_real_tokens(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Average the hidden states over the tokens that are no padding.

    Args:
        hidden: ``[batch, tokens, hidden]``.
        attention_mask: ``[batch, tokens]``, non-zero where a token is real.

    Returns:
        ``[batch, hidden]``.
    """
    mask = (attention_mask != 0).to(hidden.dtype).unsqueeze(-1)  # [batch, tokens, 1]
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


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


def choose_width(router_logits: Tensor, relative_cost: Tensor, policy: RoutingPolicy) -> Tensor:
    """Apply the routing policy; ties go to the cheaper width.

    Args:
        router_logits: ``[batch, widths]``.
        relative_cost: Cost of each width over the full network's, ``[batch, widths]`` or ``[widths]``.
        policy: The cost weight λ.

    Returns:
        The index of each input's width, int64 ``[batch]``.
    """
    if policy.cost_weight == 0:
        # The sigmoid saturates in single precision, and the order of the logits doesn't.
        return router_logits.argmax(dim=-1)
    return (torch.sigmoid(router_logits) - policy.cost_weight * relative_cost).argmax(dim=-1)


def confidence(logits: Tensor, problem_type: str | None = None) -> Tensor:
    """Measure how sure an answer is of itself: the probability of its class; of several labels, the least sure one's.

    Args:
        logits: ``[batch, labels]``.
        problem_type: As in Hugging Face configurations.

    Returns:
        float32 ``[batch]``, from 0 to 1.
    """
    if problem_type == "multi_label_classification":
        probability = torch.sigmoid(logits.float())
        return torch.maximum(probability, 1 - probability).amin(dim=-1)
    return logits.float().softmax(dim=-1).amax(dim=-1)


def unsure(confidences: Tensor, width_index: Tensor, full_index: int, policy: RoutingPolicy) -> Tensor:
    """Tell which inputs continue at full width: the policy's second decision.

    Args:
        confidences: Of the sub-network that each input ran, ``[batch]``.
        width_index: That sub-network's index, int64 ``[batch]``.
        full_index: Index of the full width, from where nothing continues.
        policy: The confidence from which an answer stands.

    Returns:
        bool ``[batch]``.
    """
    if policy.escalation_threshold is None:
        return torch.zeros_like(width_index, dtype=torch.bool)
    return (width_index < full_index) & (confidences < policy.escalation_threshold)


def blended(full: Tensor, narrow: Tensor, policy: RoutingPolicy, problem_type: str | None = None) -> Tensor:
    """Average the answers of inputs that continued at full width with their narrow ones.

    Args:
        full: The full network's logits, ``[..., labels]``.
        narrow: The sub-network's.
        policy: How much the latter weighs.
        problem_type: As in Hugging Face configurations.

    Returns:
        Logits of the averaged probabilities, like ``full``; the very same if nothing is to be blended.
    """
    if policy.blend == 0:
        return full
    weights = torch.tensor([1 - policy.blend, policy.blend], device=full.device).log()
    both = torch.stack([full.float(), narrow.float()], dim=-1)  # [..., labels, 2]
    if problem_type == "multi_label_classification":
        positive, negative = torch.nn.functional.logsigmoid(both), torch.nn.functional.logsigmoid(-both)
        mixed = (positive + weights).logsumexp(dim=-1) - (negative + weights).logsumexp(dim=-1)
    else:
        mixed = (both.log_softmax(dim=-2) + weights).logsumexp(dim=-1)
    return mixed.to(full.dtype)
