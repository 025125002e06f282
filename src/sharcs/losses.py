"""What a training step minimises, for each recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["distillation_loss", "divergence", "router_loss", "true_class_probability"]


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Look up the confidence in the true class.

    Args:
        logits: ``[..., batch, labels]``.
        labels: int64 ``[batch]``.

    Returns:
        float32 ``[..., batch]``, without gradient.
    """
    probability = logits.detach().float().softmax(dim=-1)
    index = labels.expand(probability.shape[:-1]).unsqueeze(-1)
    return probability.gather(-1, index).squeeze(-1)


def router_loss(router_logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of every width's score (paper, section 3.3).

    Args:
        router_logits: ``[batch, widths]``.
        target: From 0 to 1, ``[batch, widths]``.

    Returns:
        A scalar.
    """
    return F.binary_cross_entropy_with_logits(router_logits, target.to(router_logits))


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback–Leibler divergence of the student's answer from the teacher's, which gets no gradient.

    Args:
        student: Logits, ``[batch, labels]``.
        teacher: Logits, ``[batch, labels]``.

    Returns:
        Mean over the batch, a scalar.
    """
    target = teacher.detach().float().log_softmax(dim=-1)
    return F.kl_div(student.float().log_softmax(dim=-1), target, reduction="batchmean", log_target=True)


def distillation_loss(narrow_logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Task loss of every narrow width, and its divergence from the full network.

    Args:
        narrow_logits: ``[narrow widths, batch, labels]``.
        teacher: The full network's logits, ``[batch, labels]``.
        labels: int64 ``[batch]``.

    Returns:
        The sum over widths, a scalar.
    """
    return torch.stack(
        [F.cross_entropy(logits.float(), labels) + divergence(logits, teacher) for logits in narrow_logits]
    ).sum()
