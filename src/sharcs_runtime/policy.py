"""The routing policy in NumPy: what :mod:`sharcs.model.router` computes, for answers that are arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "RoutingPolicy", "blended", "choose_width", "confidence", "relative_cost", "softmax", "unsure"]

Floats = NDArray[np.float32]
MULTI_LABEL = "multi_label_classification"


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """How router logits become a width.

    Attributes:
        cost_weight: λ. The width is the argmax of (router score − λ · relative cost), where the score is the
            sigmoid of the router's logit and the relative cost is a width's cost over the full network's, for an
            input of the same length. 0 is the paper's policy: the router's argmax. Positive values save cost, and
            negative ones spend more than the router asked for.
        escalation_threshold: An input whose sub-network is less sure of its answer than this (the probability of the
            class that it names) continues at full width from the kept output of layer k. None, the paper's policy,
            lets every answer stand; an input then never runs more than one sub-network.
        blend: Weight of the narrow answer in that of an input that continued, from 0 to 1: the probabilities of both
            networks are averaged, which costs nothing and is right more often than the full network alone.
    """

    cost_weight: float = 0.0
    escalation_threshold: float | None = None
    blend: float = 0.0

    @property
    def escalates(self) -> bool:
        """Whether an answer of a narrow sub-network has to be sure enough to stand."""
        return self.escalation_threshold is not None


def relative_cost(coefficients: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide each width's FLOPs by those of the plain full network on an input of the same length.

    Args:
        coefficients: c₀, c₁ and c₂ of the cost c₀ + c₁·T + c₂·T² of each width, and of the plain network last:
            ``[widths + 1, 3]``.
        lengths: Real tokens, ``[batch]``.

    Returns:
        ``[batch, widths]``.
    """
    tokens = lengths.astype(np.float64)[:, None]
    cost = np.concatenate([np.ones_like(tokens), tokens, tokens**2], axis=1) @ coefficients.T
    ratio: NDArray[np.float64] = cost[:, :-1] / cost[:, -1:]
    return ratio


def choose_width(
    router_logits: Floats, relative: NDArray[np.float64] | None, policy: RoutingPolicy
) -> NDArray[np.int64]:
    """Apply the policy; ties go to the cheaper width.

    Args:
        router_logits: ``[batch, widths]``.
        relative: From :func:`relative_cost`; not needed if the cost weighs nothing.
        policy: The cost weight λ.

    Returns:
        The index of each input's width, ``[batch]``.
    """
    if policy.cost_weight == 0 or relative is None:
        return np.asarray(router_logits.argmax(axis=-1))
    # The two halves of the sigmoid, so that no exponential overflows.
    decay = np.exp(-np.abs(router_logits))
    scores = np.where(router_logits >= 0, 1.0, decay) / (1.0 + decay)
    return np.asarray((scores - policy.cost_weight * relative).argmax(axis=-1))


def softmax(logits: Floats) -> Floats:
    """Turn logits ``[..., labels]`` into probabilities."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def confidence(logits: Floats, problem_type: str | None = None) -> Floats:
    """Measure how sure an answer is of itself: ``[batch, labels]`` to ``[batch]``, from 0 to 1."""
    if problem_type == MULTI_LABEL:
        # The larger one of a label's two probabilities; of several labels, the least sure one's.
        return np.asarray((1 / (1 + np.exp(-np.abs(logits)))).min(axis=-1), np.float32)
    return np.asarray(softmax(logits).max(axis=-1))


def unsure(
    confidences: Floats, width_index: NDArray[np.int64], full_index: int, policy: RoutingPolicy
) -> NDArray[np.bool_]:
    """Tell which inputs, of confidences and widths ``[batch]``, continue at full width."""
    if policy.escalation_threshold is None:
        return np.zeros(width_index.shape, np.bool_)
    below: NDArray[np.bool_] = (width_index < full_index) & (confidences < np.float32(policy.escalation_threshold))
    return below


def blended(full: Floats, narrow: Floats, policy: RoutingPolicy, problem_type: str | None = None) -> Floats:
    """Average the answers of inputs that went on with their narrow ones: logits ``[..., labels]``, like both."""
    if policy.blend == 0:
        return full
    with np.errstate(divide="ignore"):  # a weight of nothing has the logarithm −∞
        weights = np.log(np.array([1 - policy.blend, policy.blend], np.float32))
    both = np.stack([full, narrow])
    shares = weights.reshape(2, *[1] * full.ndim)
    if problem_type == MULTI_LABEL:
        positive, negative = -np.logaddexp(0, -both), -np.logaddexp(0, both)
        mixed = np.logaddexp(*(positive + shares)) - np.logaddexp(*(negative + shares))
    else:
        highest = both.max(axis=-1, keepdims=True)
        normaliser = highest + np.log(np.exp(both - highest).sum(axis=-1, keepdims=True))
        mixed = np.logaddexp(*(both - normaliser + shares))
    return np.asarray(mixed, np.float32)
