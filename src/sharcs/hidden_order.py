"""Reorder the hidden dimensions by importance, so that the cut to a prefix keeps what the network relies on.

One permutation through the whole network, embeddings to head, leaves the full network's answers unchanged. The paper
orders heads and neurons only (:mod:`sharcs.importance`); this belongs to the recipe ``sharcs+``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.layers import all_layers, layer_parts
from sharcs.narrow import norm_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sharcs.layers import LayerParts
    from sharcs.modeling import SharcsForSequenceClassification

__all__ = ["reorder_hidden_dimensions"]

# Sums in another order round otherwise; anything above means that the network has a part which isn't known here.
TOLERANCE = 1e-3


def reorder_hidden_dimensions(
    model: SharcsForSequenceClassification, batches: Iterable[dict[str, Tensor]]
) -> Tensor | None:
    """Sort the hidden dimensions, most important first, in place; the private norms start anew from the new prefixes.

    A dimension's importance is Σ over batches, tokens and the outputs h of layers k..L of |h·∂loss/∂h|.

    Args:
        model: A routed network that is not trained yet; its gradients and training mode are left as they are.
        batches: Training batches with ``labels``, on the model's device.

    Returns:
        The order, int64 ``[hidden]``; None if the encoder has parts through which its hidden dimensions can't be
        followed: it is then left as it was.
    """
    was_training = model.training
    model.train(False)
    try:
        scores, probe = _importance(model, batches)
        if probe is None:
            return None
        order = scores.argsort(descending=True, stable=True)
        before = _full_logits(model, probe)
        projections, reader = _outside_the_layers(model, probe)
        _permute(model, projections, reader, order)
        worst = (_full_logits(model, probe) - before).abs().max()
        if not worst <= TOLERANCE * (1 + before.abs().max()):
            _permute(model, projections, reader, order.argsort())
            return None
        model.tail.reset_norms()
        return order
    finally:
        model.train(was_training)


def _importance(
    model: SharcsForSequenceClassification, batches: Iterable[dict[str, Tensor]]
) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Accumulate the scores, ``[hidden]``, and keep a batch to check with."""
    tail = model.tail
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    def entered(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        if not hidden.requires_grad:  # everything below is frozen
            hidden = hidden.detach().requires_grad_(True)
        seen.append(hidden)
        return (hidden, *inputs[1:])

    hooks = [tail.register_forward_pre_hook(entered)]
    hooks += [layer.register_forward_hook(keep) for layer in tail.layers]
    scores = torch.zeros(tail.hidden_size, device=tail.router.hidden.weight.device)
    probe = None
    try:
        for batch in batches:
            seen.clear()
            gradients = torch.autograd.grad(model(**batch, width=1.0).loss, seen)
            for hidden, gradient in zip(seen, gradients, strict=True):
                scores += (hidden * gradient).detach().abs().float().sum(dim=(0, 1))
            probe = batch
    finally:
        for hook in hooks:
            hook.remove()
    return scores, probe


@torch.no_grad()
def _full_logits(model: SharcsForSequenceClassification, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch, width=1.0).logits.float()  # type: ignore[no-any-return]


def _encoder_layers(model: SharcsForSequenceClassification) -> list[nn.Module]:
    return all_layers(model.encoder.base_model, model.tail.layers[0])


@torch.no_grad()
def _outside_the_layers(
    model: SharcsForSequenceClassification, batch: dict[str, Tensor]
) -> tuple[list[nn.Linear], nn.Linear | None]:
    """Watch which linear modules run before the layers, and which one reads the last layer's output."""
    inside = {module for layer in _encoder_layers(model) for module in layer.modules()} | set(model.tail.modules())
    order: list[nn.Module] = []
    hooks = [model.tail.register_forward_pre_hook(lambda module, _inputs: order.append(module))]
    for module in model.encoder.modules():
        if isinstance(module, nn.Linear) and module not in inside:
            hooks.append(module.register_forward_pre_hook(lambda linear, _inputs: order.append(linear)))
    try:
        model(**batch, width=1.0)
    finally:
        for hook in hooks:
            hook.remove()
    at = order.index(model.tail)
    before = [linear for linear in order[:at] if isinstance(linear, nn.Linear)]
    after = [linear for linear in order[at + 1 :] if isinstance(linear, nn.Linear)]
    return before, (after[0] if after else None)


@torch.no_grad()
def _permute(
    model: SharcsForSequenceClassification, projections: list[nn.Linear], reader: nn.Linear | None, order: Tensor
) -> None:
    hidden, layers = model.tail.hidden_size, _encoder_layers(model)
    inside = {module for layer in layers for module in layer.modules()} | set(model.tail.modules())
    for layer in layers:
        parts: LayerParts | None = layer_parts(layer, hidden)
        assert parts is not None  # checked when the encoder was wrapped
        for linear in (*parts.inputs, parts.up):
            _columns(linear, order)
        for linear in (parts.output, parts.down):
            _rows(linear, order)
        for name in norm_names(layer):
            _rows(layer.get_submodule(name), order)
    for module in model.encoder.base_model.modules():
        if module in inside:
            continue
        if isinstance(module, nn.Embedding) and module.embedding_dim == hidden and not projections:
            _columns(module, order)
        elif "Norm" in type(module).__name__:
            _rows(module, order)
    for linear in projections[-1:]:
        _rows(linear, order)
    if reader is not None:
        _columns(reader, order)
    _columns(model.tail.router.hidden, order)


def _columns(module: nn.Module, order: Tensor) -> None:
    weight: Tensor = module.weight  # type: ignore[assignment]
    if weight.shape[1] == len(order):
        weight.copy_(weight[:, order.to(weight.device)])


def _rows(module: nn.Module, order: Tensor) -> None:
    for tensor in (module.weight, module.bias):
        if isinstance(tensor, Tensor) and tensor.shape[0] == len(order):
            tensor.copy_(tensor[order.to(tensor.device)])
