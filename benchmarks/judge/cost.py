"""FLOPs of the methods' parts: every matrix product, two FLOPs a multiply-add, as in sharcs.model.cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


def layer(config: Any, lengths: Numbers, width: float = 1.0) -> Floats:
    """One encoder layer on inputs of these lengths; ``width`` cuts heads and neurons, not the hidden size."""
    tokens = lengths.astype(np.float64)
    hidden = config.hidden_size
    rows = round(width * config.num_attention_heads) * (hidden // config.num_attention_heads)
    neurons = round(width * config.intermediate_size)
    cost: Floats = 2 * tokens * (4 * hidden * rows + 2 * hidden * neurons) + 4 * tokens**2 * rows
    return cost


def head(config: Any, labels: int) -> float:
    """The classifier, behind BERT's pooler."""
    return 2.0 * config.hidden_size * (config.hidden_size + labels)


def gru(inputs: int, units: int, labels: int, lengths: Numbers) -> Floats:
    """A GRU in both directions, and a linear classifier on mean and maximum of its outputs."""
    steps: Floats = 2 * 2.0 * lengths * 3 * units * (inputs + units)
    return steps + 2.0 * 4 * units * labels


def branch(hidden: int, size: int, labels: int, lengths: Numbers) -> Floats:
    """FastBERT's branch: into a small size, self-attention there, one token on to the classes."""
    tokens = lengths.astype(np.float64)
    cost: Floats = 2 * tokens * (hidden * size + 4 * size * size) + 4 * tokens**2 * size
    return cost + 2.0 * size * (size + labels)
