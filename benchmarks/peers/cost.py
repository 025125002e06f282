"""FLOPs of the peers' parts, by the rule of sharcs.model.cost: every matrix product, two FLOPs a multiply-add."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def layer(config: Any, lengths: Tensor, width: float = 1.0) -> Tensor:
    """One encoder layer of inputs of these lengths; ``width`` cuts heads and neurons, not the hidden size."""
    tokens, hidden = lengths.double(), config.hidden_size
    heads = round(width * config.num_attention_heads) / config.num_attention_heads
    neurons = round(width * config.intermediate_size)
    products = 4 * hidden * (hidden * heads) + 2 * hidden * neurons
    return 2 * tokens * products + 4 * tokens**2 * (hidden * heads)


def classifier(config: Any, labels: int) -> float:
    """Pooler and linear classifier on one token."""
    return 2.0 * config.hidden_size * (config.hidden_size + labels)


def plain(config: Any, lengths: Tensor, labels: int, layers: int | None = None) -> Tensor:
    """The whole network, or its first layers with a head: ``[inputs]``."""
    count = config.num_hidden_layers if layers is None else layers
    return count * layer(config, lengths) + classifier(config, labels)


def check(model: Any, labels: int) -> None:
    """Compare the closed form with PyTorch's counter on the real network, once before a study."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the counter doesn't see the processor's fused attention
    model.train(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(1, 17, dtype=torch.long))
    model.set_attn_implementation(before)
    expected = float(plain(model.config, torch.tensor([17]), labels)[0])
    assert counter.get_total_flops() == expected, (counter.get_total_flops(), expected)
