"""FLOPs of an input at every width, in closed form, from its real length.

Counted are the multiplications and additions of every matrix product that runs (one multiply-add is two FLOPs):
the layers' projections and attention, projections of the embeddings, the pooler, the head and the router. Lookups,
norms, activations and softmax are left out, as ``torch.utils.flop_counter`` leaves them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sharcs.architectures import architecture_of, body_of, head_size, layers_config
from sharcs.calls import trunk_layers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from sharcs.subnetworks import RoutedTail

__all__ = ["continuation_coefficients", "cost_coefficients", "flops", "relative_cost"]


def cost_coefficients(encoder: PreTrainedModel, tail: RoutedTail) -> Tensor:
    """Write the cost of an input of T tokens as a polynomial: c₀ + c₁·T + c₂·T².

    Args:
        encoder: The wrapped model with its task head.
        tail: The routed tail inside it.

    Returns:
        float64 ``[widths + 1, 3]``: a row a width, router included, and last the plain full network, which has no
        router to run.
    """
    full_size = layers_config(encoder.config)
    trunk = trunk_layers(encoder)
    shared = _outside(encoder, tail) + _layers(trunk, full_size)
    router = sum(_linear(module) for module in tail.router.modules() if isinstance(module, nn.Linear))
    routed = torch.tensor([router, 0.0, 0.0], dtype=torch.float64)
    rows = []
    for index in range(len(tail.narrow_widths) + 1):
        size = full_size if index == len(tail.narrow_widths) else tail.narrow_configs[index]
        rows.append(shared + routed + _layers(tail.running_at(index), size, len(tail.layers)))
    rows.append(rows[-1] - routed)
    return torch.stack(rows)


def continuation_coefficients(encoder: PreTrainedModel, tail: RoutedTail) -> Tensor:
    """Write the cost of continuing at full width from the kept output of layer k as c₀ + c₁·T + c₂·T².

    Layers 1..k and the router are not run again; a projection of the embeddings is, and the head.

    Args:
        encoder: The wrapped model with its task head.
        tail: The routed tail inside it.

    Returns:
        float64 ``[3]``.
    """
    return cost_coefficients(encoder, tail)[-1] - _layers(trunk_layers(encoder), layers_config(encoder.config))


def _outside(encoder: PreTrainedModel, tail: RoutedTail) -> Tensor:
    """Count what runs before the layers and behind them."""
    body = body_of(encoder)
    elsewhere = {*tail.modules(), *(m for layer in {*trunk_layers(encoder), *tail.layers} for m in layer.modules())}
    for name in architecture_of(encoder.config).unused:
        elsewhere |= set(body.get_submodule(name).modules())
    pooler = getattr(body, "pooler", None)
    per_input = set(pooler.modules()) if pooler is not None else set()
    inside = set(body.modules())
    # Some heads answer for every token and average then.
    late = getattr(encoder.config, "classifier_pooling", None) == "late"
    once = per_token = 0.0
    for module in set(encoder.modules()) - elsewhere:
        if isinstance(module, nn.Linear) and module not in per_input and (late or module in inside):
            per_token += _linear(module)
        elif isinstance(module, nn.Linear):
            once += _linear(module)
        elif isinstance(module, nn.Conv1d):
            per_token += 2.0 * module.weight.numel()  # one output for every input
    return torch.tensor([once, per_token, 0.0], dtype=torch.float64)


def _layers(running: list[nn.Module], config: PreTrainedConfig, count: int | None = None) -> Tensor:
    """Count some layers of one size.

    Args:
        running: They, or what contains them; what runs several times comes several times.
        config: The configuration that they are built from.
        count: How many layers it is, if not one a module.
    """
    linears = sum(_linear(m) for module in running for m in module.modules() if isinstance(m, nn.Linear))
    layers = len(running) if count is None else count
    # Scores and weighted values: each T² products over all heads' sizes.
    attention = [0.0, linears, layers * 2 * 2.0 * config.num_attention_heads * head_size(config)]
    return torch.tensor(attention, dtype=torch.float64) + layers * _relative_positions(config)


def _relative_positions(config: PreTrainedConfig) -> Tensor:
    """Count what one layer of DeBERTa spends on relative positions: on no other encoder anything.

    The embeddings of all distances are projected once an input, and every token is compared with each of them.
    """
    kinds = len(set(getattr(config, "pos_att_type", None) or ()) & {"c2p", "p2c"})
    if not getattr(config, "relative_attention", False) or kinds == 0:
        return torch.zeros(3, dtype=torch.float64)
    reach = config.position_buckets if config.position_buckets > 0 else config.max_relative_positions
    distances = 2 * (reach if reach > 0 else config.max_position_embeddings)
    hidden = config.hidden_size
    # Where they have projections of their own, these are among the layer's, and counted for every token.
    projected = 2.0 * kinds * distances * hidden**2
    own = 0.0 if config.share_att_key else -2.0 * kinds * hidden**2
    return torch.tensor([projected, own + 2.0 * kinds * distances * hidden, 0.0], dtype=torch.float64)


def flops(coefficients: Tensor, lengths: Tensor) -> Tensor:
    """Evaluate the polynomials.

    Args:
        coefficients: ``[widths + 1, 3]``, from :func:`cost_coefficients`.
        lengths: Real tokens of each input, ``[batch]``.

    Returns:
        FLOPs, ``[batch, widths + 1]``; the last column is the plain full network.
    """
    tokens = lengths.to(coefficients.dtype).unsqueeze(-1)  # [batch, 1]
    powers = torch.cat([torch.ones_like(tokens), tokens, tokens**2], dim=-1)  # [batch, 3]
    return powers @ coefficients.T


def relative_cost(coefficients: Tensor, lengths: Tensor) -> Tensor:
    """Divide each width's cost by that of the plain full network on the same input: ``[batch, widths]``."""
    cost = flops(coefficients, lengths)
    return cost[:, :-1] / cost[:, -1:]


def _linear(module: nn.Linear) -> float:
    return 2.0 * module.in_features * module.out_features
