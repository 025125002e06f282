"""Reorder heads and feed-forward neurons so that the prefixes of the weights hold the important ones.

As DynaBERT does, and as the paper takes over (section 3.2). The order is chosen on training data, and the full
network computes the same before and after, up to the rounding of sums in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.errors import InputError
from sharcs.layers import LayerParts, all_layers, layer_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sharcs.modeling import SharcsForSequenceClassification

__all__ = ["reorder_by_importance"]


def reorder_by_importance(model: SharcsForSequenceClassification, batches: Iterable[dict[str, Tensor]]) -> None:
    """Sort heads and neurons of the layers after the router, most important first, in place.

    A head's importance is Σ over batches of |∂loss/∂(its mask)|; a neuron's is Σ over batches of |Σ w·∂loss/∂w|,
    over its incoming and over its outgoing weights.

    Args:
        model: The routed network; its gradients and training mode are left as they are.
        batches: Training batches with ``labels``, on the model's device.

    Raises:
        InputError: If the layers were changed since the encoder was wrapped (adapters, say).
    """
    tail, model_type = model.tail, model.encoder.config.model_type
    layers = _parts_of(tail.layers, tail.hidden_size, model_type)
    head_scores, neuron_scores = _importance(model, layers, batches)
    bias = _shared_head_bias(model)
    if bias is None:
        head_orders = [scores.argsort(descending=True, stable=True) for scores in head_scores]
    else:
        # The heads of all layers share this bias, so they can only move together, those of layers 1..k included.
        order = torch.stack(head_scores).sum(dim=0).argsort(descending=True, stable=True)
        trunk = all_layers(model.encoder.base_model, tail.layers[0])[: -len(tail.layers)]
        for parts in _parts_of(trunk, tail.hidden_size, model_type):
            _permute_heads(parts, order)
        with torch.no_grad():
            bias.weight.copy_(bias.weight[:, order])
        head_orders = [order] * len(layers)
    for parts, order, scores in zip(layers, head_orders, neuron_scores, strict=True):
        _permute_heads(parts, order)
        _permute_neurons(parts, scores.argsort(descending=True, stable=True))


def _parts_of(layers: Iterable[nn.Module], hidden: int, model_type: str) -> list[LayerParts]:
    found = [layer_parts(layer, hidden) for layer in layers]
    if any(parts is None for parts in found):
        raise InputError(
            f"{model_type}: its layers were changed, and the roles of their projections can't be told any more; "
            "train with importance_samples=0 to leave heads and neurons in their order"
        )
    return [parts for parts in found if parts is not None]


def _importance(
    model: SharcsForSequenceClassification, layers: list[LayerParts], batches: Iterable[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Accumulate the scores of every tail layer: ``[heads]`` and ``[neurons]`` each."""
    heads = model.tail.num_heads
    device = layers[0].output.weight.device
    head_scores = [torch.zeros(heads, device=device) for _ in layers]
    neuron_scores = [torch.zeros(parts.up.out_features, device=device) for parts in layers]
    masks = [torch.ones(heads, device=device, dtype=p.up.weight.dtype, requires_grad=True) for p in layers]

    def masked(mask: Tensor) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0] * mask.repeat_interleave(inputs[0].shape[-1] // heads), *inputs[1:])

        return hook

    hooks = [parts.output.register_forward_pre_hook(masked(mask)) for parts, mask in zip(layers, masks, strict=True)]
    wanted = [[mask, parts.up.weight, parts.down.weight] for parts, mask in zip(layers, masks, strict=True)]
    for parts, tensors in zip(layers, wanted, strict=True):
        if parts.up.bias is not None:
            tensors.append(parts.up.bias)
    flat = [tensor for tensors in wanted for tensor in tensors]
    # Weights that the caller froze are measured all the same.
    frozen = [tensor for tensor in flat if not tensor.requires_grad]
    for tensor in frozen:
        tensor.requires_grad_(True)
    was_training = model.training
    model.train(False)
    try:
        for batch in batches:
            # Only what is asked for: layers 1..k and the embeddings need no gradient.
            gradients = iter(torch.autograd.grad(model(**batch, width=1.0).loss, flat))
            for index, tensors in enumerate(wanted):
                _, up, down, *bias = tensors
                head_scores[index] += next(gradients).abs()
                incoming = (up * next(gradients)).sum(dim=1)
                outgoing = (down * next(gradients)).sum(dim=0)
                for values in bias:
                    incoming = incoming + values * next(gradients)
                neuron_scores[index] += (incoming.abs() + outgoing.abs()).detach()
    finally:
        for handle in hooks:
            handle.remove()
        for tensor in frozen:
            tensor.requires_grad_(False)
        model.train(was_training)
    return head_scores, neuron_scores


def _shared_head_bias(model: SharcsForSequenceClassification) -> nn.Embedding | None:
    """Find a relative position bias with one column a head, which all layers read (MPNet)."""
    for name, module in model.encoder.base_model.named_modules():
        if isinstance(module, nn.Embedding) and module.embedding_dim == model.tail.num_heads and "relative" in name:
            return module
    return None


@torch.no_grad()
def _permute_heads(parts: LayerParts, order: Tensor) -> None:
    size = parts.output.in_features // len(order)
    index = (order.unsqueeze(1) * size + torch.arange(size, device=order.device)).flatten()
    for linear in parts.inputs:
        _permute_rows(linear, index)
    parts.output.weight.copy_(parts.output.weight[:, index])


@torch.no_grad()
def _permute_neurons(parts: LayerParts, order: Tensor) -> None:
    _permute_rows(parts.up, order)
    parts.down.weight.copy_(parts.down.weight[:, order])


def _permute_rows(linear: nn.Linear, index: Tensor) -> None:
    linear.weight.copy_(linear.weight[index])
    if linear.bias is not None:
        linear.bias.copy_(linear.bias[index])
