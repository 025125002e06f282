"""Importance of heads and feed-forward neurons, so that a narrow network keeps what matters.

As DynaBERT does, and as the paper takes over (section 3.2): there, the full network is reordered, so that prefixes of
its weights hold what is important. The recipe ``sharcs+`` cuts weights of their own out of it instead
(:mod:`sharcs.subnetworks.own`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sharcs.encoders.architectures import head_groups, layers_config
from sharcs.encoders.layers import parts_of
from sharcs.encoders.units import masked, permute
from sharcs.model.layer_list import trunk_layers
from sharcs.training.processes import average, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sharcs.model.base import RoutedModel


@dataclass(frozen=True, slots=True)
class Importance:
    """Scores, higher is more important.

    Attributes:
        heads: Of every head, Σ over batches of |∂loss/∂(its mask)|: ``[heads]`` for each layer after the router.
            Heads that share a key and a value have one mask.
        neurons: Of every feed-forward neuron, Σ over batches of |Σ w·∂loss/∂w|, over its incoming and over its
            outgoing weights: ``[neurons]`` for each of these layers.
    """

    heads: list[Tensor]
    neurons: list[Tensor]

    def orders(self) -> list[tuple[Tensor, Tensor]]:
        """Sort the heads and the neurons of each layer, the most important first: int64 each."""
        return [
            (_descending(heads), _descending(neurons))
            for heads, neurons in zip(self.heads, self.neurons, strict=True)
        ]


def measure_importance(
    model: RoutedModel, batches: Iterable[dict[str, Tensor]], of: Sequence[nn.Module] | None = None
) -> Importance:
    """Measure importance for the full network's loss.

    Args:
        model: The routed network; its gradients and training mode are left as they are.
        batches: Training batches with ``labels``, on the model's device.
        of: The layers to measure; by default those after the router.

    Raises:
        InputError: If the layers were changed since the encoder was wrapped (adapters, say).
    """
    layers = parts_of(model.tail.layers if of is None else of, model.encoder.config)
    device, heads = layers[0].output.weight.device, head_groups(layers_config(model.encoder.config))
    scores = Importance(
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
    hooks = [p.output.register_forward_pre_hook(masked(mask)) for p, mask in zip(layers, masks, strict=True)]
    was_training = model.training
    model.train(False)
    try:
        for batch in batches:
            loss = whole(model)(**batch, width=1.0).loss
            # Only what is asked for: layers 1..k and the embeddings need no gradient.
            of_loss = [gradient.contiguous() for gradient in torch.autograd.grad(loss, flat)]
            average(of_loss)
            gradients = iter(of_loss)
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
    layers = parts_of(tail.layers, config)
    bias = _shared_head_bias(model)
    if bias is None:
        head_orders = [_descending(of_layer) for of_layer in scores.heads]
    else:
        # The heads of all layers share this bias, so they can only move together, those of layers 1..k included.
        order = _descending(torch.stack(scores.heads).sum(dim=0))
        for parts in parts_of(trunk_layers(model.encoder), config):
            permute(parts.inputs, parts.output, order)
        with torch.no_grad():
            bias.weight.copy_(bias.weight[:, order])
        head_orders = [order] * len(layers)
    done: set[nn.Module] = set()
    for parts, order, of_neurons in zip(layers, head_orders, scores.neurons, strict=True):
        if parts.down in done:
            continue  # a layer that the encoder runs several times
        done.add(parts.down)
        permute(parts.inputs, parts.output, order)
        permute(parts.up, parts.down, _descending(of_neurons))


def _shared_head_bias(model: RoutedModel) -> nn.Embedding | None:
    """Find a relative position bias with one column a head, which all layers read (MPNet)."""
    for name, module in model.encoder.base_model.named_modules():
        if isinstance(module, nn.Embedding) and module.embedding_dim == model.tail.num_heads and "relative" in name:
            return module
    return None


def _descending(scores: Tensor) -> Tensor:
    return scores.argsort(descending=True, stable=True)
