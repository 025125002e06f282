"""Importance of hidden dimensions, heads and feed-forward neurons, so that a narrow network keeps what matters.

As DynaBERT does, and as the paper takes over for heads and neurons (section 3.2): there, the full network is
reordered, so that prefixes of its weights hold what is important. The recipe ``sharcs+`` cuts weights of their own
out of it instead (:mod:`sharcs.private`), and orders hidden dimensions as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.architectures import head_groups, layers_config
from sharcs.calls import trunk_layers
from sharcs.errors import InputError
from sharcs.layers import LayerParts, Projection, layer_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedConfig

    from sharcs.routed import RoutedModel

__all__ = ["Importance", "measure_importance", "permute_heads", "permute_neurons", "reorder_by_importance"]


@dataclass(frozen=True, slots=True)
class Importance:
    """Scores, higher is more important.

    Attributes:
        hidden: Of every hidden dimension, Σ over batches, tokens and the outputs h of layers k..L of |h·∂loss/∂h|:
            ``[hidden]``.
        heads: Of every head, Σ over batches of |∂loss/∂(its mask)|: ``[heads]`` for each layer after the router.
            Heads that share a key and a value have one mask.
        neurons: Of every feed-forward neuron, Σ over batches of |Σ w·∂loss/∂w|, over its incoming and over its
            outgoing weights: ``[neurons]`` for each of these layers.
    """

    hidden: Tensor
    heads: list[Tensor]
    neurons: list[Tensor]


def measure_importance(model: RoutedModel, batches: Iterable[dict[str, Tensor]]) -> Importance:
    """Measure importance for the full network's loss.

    Args:
        model: The routed network; its gradients and training mode are left as they are.
        batches: Training batches with ``labels``, on the model's device.

    Raises:
        InputError: If the layers were changed since the encoder was wrapped (adapters, say).
    """
    tail = model.tail
    layers = _parts_of(tail.layers, model.encoder.config)
    device, heads = layers[0].output.weight.device, head_groups(layers_config(model.encoder.config))
    scores = Importance(
        hidden=torch.zeros(tail.hidden_size, device=device),
        heads=[torch.zeros(heads, device=device) for _ in layers],
        neurons=[torch.zeros(parts.down.in_features, device=device) for parts in layers],
    )
    masks = [torch.ones(heads, device=device, dtype=p.down.weight.dtype, requires_grad=True) for p in layers]
    wanted = [
        [mask, parts.down.weight, *(tensor for up in parts.up for tensor in up.linear.parameters())]
        for parts, mask in zip(layers, masks, strict=True)
    ]
    flat = [tensor for tensors in wanted for tensor in tensors]
    # Weights that the caller froze are measured all the same.
    frozen = [tensor for tensor in flat if not tensor.requires_grad]
    for tensor in frozen:
        tensor.requires_grad_(True)
    hidden: list[Tensor] = []
    hooks = _watch_hidden(model, hidden)
    hooks += [p.output.register_forward_pre_hook(_masked(mask)) for p, mask in zip(layers, masks, strict=True)]
    was_training = model.training
    model.train(False)
    try:
        for batch in batches:
            hidden.clear()
            loss = model(**batch, width=1.0).loss
            # Only what is asked for: layers 1..k and the embeddings need no gradient.
            gradients = iter(torch.autograd.grad(loss, [*flat, *hidden]))
            for index, tensors in enumerate(wanted):
                _, down, *up = tensors
                scores.heads[index].add_(next(gradients).abs())
                outgoing = (down * next(gradients)).sum(dim=0)
                # Of a gated neuron, all that leads into it: a row of its input's weights and one of its gate's.
                incoming = torch.zeros_like(outgoing)
                for tensor in up:
                    by_row = (
                        (tensor * next(gradients)).flatten(1).sum(dim=1)
                        if tensor.ndim > 1
                        else tensor * next(gradients)
                    )
                    incoming = incoming + by_row.view(-1, len(outgoing)).sum(dim=0)
                scores.neurons[index].add_((incoming.abs() + outgoing.abs()).detach())
            for states, gradient in zip(hidden, gradients, strict=True):
                scores.hidden.add_((states * gradient).detach().abs().float().sum(dim=(0, 1)))
    finally:
        for handle in hooks:
            handle.remove()
        for tensor in frozen:
            tensor.requires_grad_(False)
        model.train(was_training)
    return scores


def reorder_by_importance(model: RoutedModel, batches: Iterable[dict[str, Tensor]]) -> None:
    """Sort heads and neurons of the layers after the router, most important first, in place.

    The order is chosen on training data, and the full network computes the same before and after, up to the rounding
    of sums in another order.

    Args:
        model: The routed network; its gradients and training mode are left as they are.
        batches: Training batches with ``labels``, on the model's device.

    Raises:
        InputError: As :func:`measure_importance`.
    """
    tail, config = model.tail, model.encoder.config
    scores = measure_importance(model, batches)
    layers = _parts_of(tail.layers, config)
    bias = _shared_head_bias(model)
    if bias is None:
        head_orders = [of_layer.argsort(descending=True, stable=True) for of_layer in scores.heads]
    else:
        # The heads of all layers share this bias, so they can only move together, those of layers 1..k included.
        order = torch.stack(scores.heads).sum(dim=0).argsort(descending=True, stable=True)
        for parts in _parts_of(trunk_layers(model.encoder), config):
            permute_heads(parts, order)
        with torch.no_grad():
            bias.weight.copy_(bias.weight[:, order])
        head_orders = [order] * len(layers)
    done: set[nn.Module] = set()
    for parts, order, of_neurons in zip(layers, head_orders, scores.neurons, strict=True):
        if parts.down in done:
            continue  # a layer that the encoder runs several times
        done.add(parts.down)
        permute_heads(parts, order)
        permute_neurons(parts, of_neurons.argsort(descending=True, stable=True))


def _parts_of(layers: Iterable[nn.Module], config: PreTrainedConfig) -> list[LayerParts]:
    found = [layer_parts(layer, config) for layer in layers]
    if any(parts is None for parts in found):
        raise InputError(
            f"{config.model_type}: its layers were changed, and the roles of their projections can't be told any "
            "more; train with importance_samples=0 to leave heads and neurons in their order"
        )
    return [parts for parts in found if parts is not None]


def _watch_hidden(model: RoutedModel, seen: list[Tensor]) -> list[Any]:
    """Collect the outputs of layers k..L of each pass."""

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    def entered(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        if not hidden.requires_grad:  # everything below is frozen
            hidden = hidden.detach().requires_grad_(True)
        seen.append(hidden)
        return (hidden, *inputs[1:])

    tail = model.tail
    return [tail.register_forward_pre_hook(entered), *(layer.register_forward_hook(keep) for layer in tail.layers)]


def _masked(mask: Tensor) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * mask.repeat_interleave(inputs[0].shape[-1] // len(mask)), *inputs[1:])

    return hook


def _shared_head_bias(model: RoutedModel) -> nn.Embedding | None:
    """Find a relative position bias with one column a head, which all layers read (MPNet)."""
    for name, module in model.encoder.base_model.named_modules():
        if isinstance(module, nn.Embedding) and module.embedding_dim == model.tail.num_heads and "relative" in name:
            return module
    return None


@torch.no_grad()
def permute_heads(parts: LayerParts, order: Tensor) -> None:
    """Put the heads of a layer, or their groups, into another order, in place; it computes the same."""
    for projection in parts.inputs:
        _permute_rows(projection, order)
    by_head: Tensor = parts.output.weight.unflatten(1, (len(order), -1))
    parts.output.weight.copy_(by_head[:, order].flatten(1))


@torch.no_grad()
def permute_neurons(parts: LayerParts, order: Tensor) -> None:
    """Put the feed-forward neurons of a layer into another order, in place; it computes the same."""
    for projection in parts.up:
        _permute_rows(projection, order)
    parts.down.weight.copy_(parts.down.weight[:, order])


def _permute_rows(projection: Projection, order: Tensor) -> None:
    """Reorder what the rows belong to, in every one of the projections that are fused."""
    for tensor in projection.linear.parameters():
        units: Tensor = tensor.unflatten(0, (projection.blocks, len(order), -1))
        tensor.copy_(units[:, order].flatten(0, 2))
