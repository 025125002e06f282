"""Answers as numbers: probabilities, how sure an answer is of itself, averages of two answers.

Written once against the array API, for NumPy's arrays and torch's tensors alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import array_api_compat.numpy
import numpy as np
from array_api_compat import array_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

Array = Any  # of NumPy, torch or another library of the array API standard
# Problem types, as Hugging Face configurations name them.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


def namespace(array: Array) -> Any:
    """Look up an array's functions. NumPy's arrays are told apart first: the search takes as long as a small sum."""
    return array_api_compat.numpy if isinstance(array, np.ndarray) else array_namespace(array)


def softmax(logits: Array) -> Array:
    """Turn logits ``[..., labels]`` into probabilities."""
    xp = namespace(logits)
    powers = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    """Turn logits of labels that are each true or not into probabilities."""
    return namespace(logits).exp(_log_sigmoid(logits))


def _probability(logits: Array, problem_type: str | None) -> Array:
    """Score the probability of the class that is named; of several labels, the least sure one's."""
    xp = namespace(logits)
    if problem_type == MULTI_LABEL:
        # The larger one of a label's two probabilities.
        return xp.min(1 / (1 + xp.exp(-xp.abs(logits))), axis=-1)
    # The largest of softmax: its power is 1.
    return 1 / xp.sum(xp.exp(logits - xp.max(logits, axis=-1, keepdims=True)), axis=-1)


def _margin(logits: Array, problem_type: str | None) -> Array:
    """Score the lead of the class that is named over the next one; of several labels, of the least sure one."""
    xp = namespace(logits)
    if problem_type == MULTI_LABEL:
        return 2 * _probability(logits, problem_type) - 1
    ordered = xp.sort(softmax(logits), axis=-1)
    return ordered[..., -1] - ordered[..., -2]


# How sure an answer is of itself: logits ``[..., labels]`` and the problem type to scores ``[...]`` from 0 to 1.
SIGNALS: dict[str, Callable[[Array, str | None], Array]] = {"probability": _probability, "margin": _margin}


def confidence(logits: Array, problem_type: str | None = None, signal: str = "probability") -> Array:
    """Measure how sure answers are of themselves: ``[..., labels]`` to ``[...]`` in single precision, from 0 to 1.

    Args:
        logits: ``[..., labels]``.
        problem_type: As in Hugging Face configurations.
        signal: One of :data:`SIGNALS`.
    """
    xp = namespace(logits)
    single = xp.astype(logits, xp.float32, copy=False)
    return xp.astype(SIGNALS[signal](single, problem_type), xp.float32, copy=False)


def blended(later: Array, earlier: Array, weight: float, problem_type: str | None = None) -> Array:
    """Average the answers of inputs that escalated with those that they had.

    Args:
        later: Logits of the sub-network that ran last, ``[..., labels]``.
        earlier: The answers at hand before.
        weight: How much the latter weigh, from 0 to 1.
        problem_type: As in Hugging Face configurations.

    Returns:
        Logits of the averaged probabilities, like ``later``; the very same if nothing is to be blended.
    """
    if weight == 0:
        return later
    if weight == 1:
        return earlier
    xp = namespace(later)
    of_later = math.log(1 - weight)
    of_earlier = math.log(weight)
    answers = [xp.astype(logits, xp.float32, copy=False) for logits in (later, earlier)]
    if problem_type == MULTI_LABEL:
        positive = [_log_sigmoid(logits) for logits in answers]
        negative = [_log_sigmoid(-logits) for logits in answers]
        mixed = xp.logaddexp(positive[0] + of_later, positive[1] + of_earlier)
        mixed = mixed - xp.logaddexp(negative[0] + of_later, negative[1] + of_earlier)
    else:
        logs = [_log_softmax(logits) for logits in answers]
        mixed = xp.logaddexp(logs[0] + of_later, logs[1] + of_earlier)
    return xp.astype(mixed, later.dtype, copy=False)


def _log_softmax(logits: Array) -> Array:
    xp = namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def _log_sigmoid(logits: Array) -> Array:
    xp = namespace(logits)
    return -xp.logaddexp(xp.zeros_like(logits), -logits)
