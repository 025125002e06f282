"""FLOPs of an input at every width, in closed form, from its real length.

Counted are the multiplications and additions of every matrix product that runs (one multiply-add is two FLOPs):
the layers' projections and attention, projections and convolutions of the embeddings, the pooler, the head and the
router. Lookups, norms, activations and softmax are left out, as ``torch.utils.flop_counter`` leaves them out.

The tokens of an image are its patches and the special ones, those of a wave its frames. A frame's worth of samples
may be left over at a wave's end, on which the first convolutions run, too: that much is missing from its cost.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sharcs.encoders.architectures import architecture_of, body_of, head_size, layers_config, skipped_modules
from sharcs.model.layer_list import trunk_layers
from sharcs.subnetworks.compact import CompactSubnetwork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedConfig, PreTrainedModel

    from sharcs.model.tail import RoutedTail
    from sharcs.subnetworks.front import FrontSubnetwork


def cost_coefficients(encoder: PreTrainedModel, tail: RoutedTail, *, head_per_token: bool = False) -> Tensor:
    """Write the cost of an input of T tokens as a polynomial: c₀ + c₁·T + c₂·T².

    Args:
        encoder: The wrapped model with its task head.
        tail: The routed tail inside it.
        head_per_token: Whether the task head answers for every token.

    Returns:
        float64 ``[sub-networks + 1, 3]``: a row each, router included but for those in front of the encoder, and
        last the plain full network, which has no router to run.
    """
    full_size = layers_config(encoder.config)
    trunk = trunk_layers(encoder)
    shared = _cost_of(encoder, _outside(encoder, tail), head_per_token) + _layers(trunk, full_size)
    router = sum(_linear(module) for module in tail.router.modules() if isinstance(module, nn.Linear))
    routed = torch.tensor([router, 0.0, 0.0], dtype=torch.float64)
    rows = [_front(encoder, tail, subnetwork) for subnetwork in tail.front]
    for subnetwork in tail.subnetworks:
        layers = _layers(subnetwork.modules_of_layers(), subnetwork.config, len(tail.layers))
        rows.append(shared + routed + layers)
    rows.append(rows[-1] - routed)
    return torch.stack(rows)


def _front(encoder: PreTrainedModel, tail: RoutedTail, subnetwork: FrontSubnetwork) -> Tensor:
    """Count a sub-network that answers before the encoder runs."""
    own = torch.tensor(subnetwork.cost(), dtype=torch.float64)
    if not isinstance(subnetwork, CompactSubnetwork):
        return own
    body = body_of(encoder)
    pooler = getattr(body, "pooler", None)
    behind = set(pooler.modules()) if pooler is not None else set()
    embeddings = (_outside(encoder, tail) & set(body.modules())) - behind
    layers = _layers([subnetwork.inner], subnetwork.inner.config, subnetwork.spec.layers)
    return own + layers + _cost_of(encoder, embeddings, head_per_token=False)


def continuation_coefficients(encoder: PreTrainedModel, tail: RoutedTail, *, head_per_token: bool = False) -> Tensor:
    """Write the cost of continuing at full width from the kept output of layer k as c₀ + c₁·T + c₂·T².

    Layers 1..k and the router are not run again, nor is what makes patches or frames; a projection of a text's
    embeddings is, and the head.

    Args:
        encoder: The wrapped model with its task head.
        tail: The routed tail inside it.
        head_per_token: Whether the task head answers for every token.

    Returns:
        float64 ``[3]``.
    """
    body = body_of(encoder)
    skipped = {module for name in skipped_modules(encoder) for module in body.get_submodule(name).modules()}
    every = cost_coefficients(encoder, tail, head_per_token=head_per_token)
    again = every[-1] - _cost_of(encoder, skipped, head_per_token)
    return again - _layers(trunk_layers(encoder), layers_config(encoder.config))


def _outside(encoder: PreTrainedModel, tail: RoutedTail) -> set[nn.Module]:
    """Find what runs before the layers and behind them."""
    body = body_of(encoder)
    elsewhere = {*tail.modules(), *(m for layer in {*trunk_layers(encoder), *tail.layers} for m in layer.modules())}
    for name in architecture_of(encoder.config).unused:
        elsewhere |= set(body.get_submodule(name).modules())
    return set(encoder.modules()) - elsewhere


def _cost_of(encoder: PreTrainedModel, modules: Iterable[nn.Module], head_per_token: bool) -> Tensor:
    """Count some modules that lie beside the layers: c₀, c₁ and c₂."""
    body, architecture = body_of(encoder), architecture_of(encoder.config)
    inside, once = set(body.modules()), set()
    for name in (*architecture.once, "pooler"):
        part = getattr(body, name, None)
        once |= set(part.modules()) if part is not None else set()
    # Other heads answer for every token, too, and average then, or average what they have projected.
    late = head_per_token or getattr(encoder.config, "classifier_pooling", None) == "late"
    per_token = inside | {encoder.get_submodule(name) for name in architecture.frame_heads}
    strided = _strided(encoder)
    total = torch.zeros(3, dtype=torch.float64)
    for module in modules:
        if isinstance(module, nn.Linear) and module not in once and (late or module in per_token):
            total += torch.tensor([0.0, _linear(module), 0.0], dtype=torch.float64)
        elif isinstance(module, nn.Linear):
            total[0] += _linear(module)
        elif isinstance(module, nn.MultiheadAttention):
            # One query that reads all tokens; its projection of the output is a module of its own.
            size = module.embed_dim
            total += torch.tensor([2.0 * size * size, 4.0 * size * (size + 1), 0.0], dtype=torch.float64)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            each, positions = _convolution(module), (0.0, 1.0)
            if module in strided:
                positions = strided[module]
            elif isinstance(module, nn.Conv2d):
                positions = (-architecture.special_tokens, 1.0)  # one for every patch
            else:
                padding = module.padding[0] if isinstance(module.padding, tuple) else 0
                positions = (2 * int(padding) - module.kernel_size[0] + 1, 1.0)
            total += each * torch.tensor([*positions, 0.0], dtype=torch.float64)
    return total


def _strided(encoder: PreTrainedModel) -> dict[nn.Module, tuple[float, float]]:
    """Find the convolutions that make frames of a wave, and how many positions each has: a + b·frames."""
    name = architecture_of(encoder.config).convolutions
    if name is None:
        return {}
    found: dict[nn.Module, tuple[float, float]] = {}
    constant, slope = 0.0, 1.0
    modules = [m for m in body_of(encoder).get_submodule(name).modules() if isinstance(m, nn.Conv1d)]
    for module in reversed(modules):
        found[module] = (constant, slope)
        kernel, stride = module.kernel_size[0], module.stride[0]
        constant, slope = (constant - 1) * stride + kernel, slope * stride
    return found


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
    heads = config.num_attention_heads * head_size(config)
    # Where they have projections of their own, these are among the layer's, and counted for every token.
    projected = 2.0 * kinds * distances * config.hidden_size * heads
    own = 0.0 if config.share_att_key else -2.0 * kinds * config.hidden_size * heads
    return torch.tensor([projected, own + 2.0 * kinds * distances * heads, 0.0], dtype=torch.float64)


def _linear(module: nn.Linear) -> float:
    return 2.0 * module.in_features * module.out_features


def _convolution(module: nn.Conv1d | nn.Conv2d) -> float:
    """Count one position."""
    taps = math.prod(module.kernel_size)
    return 2.0 * taps * module.in_channels // module.groups * module.out_channels
