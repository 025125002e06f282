"""The encoder's list of layers once it is routed, and what stands for modules that a resumed pass leaves out."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.encoders.architectures import CHANNELS_FIRST, PAIR
from sharcs.encoders.returned import LayerProxy, as_returned, output_arity
from sharcs.model.context import TrunkDone, active_context, current_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharcs.model.context import RoutingContext


class RoutedLayerList(nn.Module):
    """The encoder's list of layers: 1..k as they are, a slot in the place of each later one, and the routed tail.

    The layers are registered by their own names, so a wrapped encoder's weights are called what they were called.
    In a pass that resumes, slots stand for layers 1..k, too.

    Args:
        layers: All L layers in their order; fewer modules may come several times.
        tail: The routed tail, which runs layers k+1..L.
        repeated: Whether the encoder asks for a few layers again and again, by an index that doesn't tell the
            position: then the L-th request of a pass is for layer L, whatever the index.
    """

    def __init__(self, layers: list[nn.Module], tail: nn.Module, *, repeated: bool = False) -> None:
        super().__init__()
        for index, layer in enumerate(dict.fromkeys(layers)):
            self.add_module(str(index), layer)
        self.add_module("tail", tail)
        self._order = layers
        self._repeated = repeated
        depth = len(layers) - tail.router_layer  # type: ignore[operator]
        self.trunk = tail.trunk = layers[:-depth]  # type: ignore[assignment]
        self._slots = [
            LayerSlot(tail, layer, is_routed=position >= len(self.trunk), is_last=position == len(layers) - 1)
            for position, layer in enumerate(layers)
        ]
        self._front = [FrontSlot(tail, layer) for layer in layers]
        self.trunk[-1].register_forward_hook(functools.partial(_remember_arity, tail))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over what runs at each position in the current pass."""
        return iter(self._running(active_context()))

    def __len__(self) -> int:
        """Count the positions: L; of repeated layers, the modules."""
        return len(set(self._order)) if self._repeated else len(self._order)

    def __getitem__(self, index: Any) -> Any:
        """Take what runs at a position, or at some of them."""
        if not self._repeated:
            return self._running(active_context())[index]
        context = current_context()
        position = context.requests
        context.requests += 1
        return self._running(context)[position]

    def _running(self, context: RoutingContext | None) -> list[Any]:
        """List what runs at each position in a pass."""
        if context is not None and context.front is not None:
            return self._front
        if context is not None and context.hidden is not None:
            return self._slots
        fast = None if context is None else context.fast
        return [*(self.trunk if fast is None else fast.trunk), *self._slots[len(self.trunk) :]]

    def plain(self) -> nn.ModuleList:
        """Make the list that the encoder had before."""
        return nn.ModuleList(list(dict.fromkeys(self._order)))


class LayerSlot(LayerProxy):
    """What stands for a layer that doesn't run where the encoder has it.

    After the router, it keeps what the layer is handed, and the last one runs the tail. Before, it stands for a
    layer that ran in an earlier pass.

    Args:
        tail: The routed tail.
        layer: The layer that it stands for.
        is_routed: Whether that layer comes after the router.
        is_last: Whether it is layer L.
    """

    def __init__(self, tail: Any, layer: nn.Module, *, is_routed: bool, is_last: bool) -> None:
        super().__init__(layer)
        self.tail = tail
        self.is_routed = is_routed
        self.is_last = is_last

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take what the encoder hands to the layer; the hidden states pass to the next slot as they are."""
        if self.is_routed:
            context = current_context()
            context.arguments.append((args, kwargs))
            if self.is_last:
                hidden = self.tail(hidden, context.arguments)
        return as_returned(hidden, self.tail.arity)


class FrontSlot(LayerProxy):
    """What stands for a layer in a pass of a sub-network that reads the embeddings.

    It keeps what the layer is handed, and where the sub-network has as many, runs it.

    Args:
        tail: The routed tail.
        layer: The layer that it stands for.
    """

    def __init__(self, tail: Any, layer: nn.Module) -> None:
        super().__init__(layer)
        self.tail = tail

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take what the encoder hands to the layer; the hidden states pass to the next slot as they are."""
        context = current_context()
        assert context.front is not None
        context.arguments.append((args, kwargs))
        if len(context.arguments) == context.front.spec.layers:
            fast = None if context.fast is None else context.fast.front[context.front.spec.name]
            context.answered = context.front.run(hidden, context.arguments, fast, context.in_both)
            if not context.passes_on:
                raise TrunkDone
        return as_returned(hidden, self.tail.arity)


def _remember_arity(tail: Any, module: nn.Module, args: Any, output: Any) -> None:
    tail.arity = output_arity(output)


def trunk_layers(encoder: nn.Module) -> list[nn.Module]:
    """List layers 1..k of an encoder that is wrapped."""
    return [layer for module in encoder.modules() if isinstance(module, RoutedLayerList) for layer in module.trunk]


def use_narrow_final_norm(final_norm: nn.Module) -> None:
    """Let sub-networks that share weights have a final norm of their own in the place of the encoder's."""
    final_norm.register_forward_hook(_normalise)


def _normalise(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    context = active_context()
    return output if context is None or context.normalise is None else context.normalise(inputs[0], output)


def shrink_when_resuming(embeddings: nn.Module) -> None:
    """Let embeddings run on one token only in a pass that resumes, where nothing reads what they return.

    The encoder's own code still takes sizes from it, so it is expanded to them. Not in training, where a dropout
    draws numbers for every token.
    """
    embeddings.register_forward_pre_hook(_shrink, with_kwargs=True)
    embeddings.register_forward_hook(_expand)


def bypass_when_resuming(module: nn.Module, returned: str) -> None:
    """Don't run a module that leads to layer 1 in a pass that resumes, where nothing reads what it returns.

    The encoder's own code still takes sizes from it, and some of it writes into it, so it is zeros. No hook, since
    those come before or after the module's own code, which here costs more than a sub-network.

    Args:
        module: It maps inputs to hidden states, or hidden states to hidden states.
        returned: What it returns, one of those that :mod:`sharcs.encoders.architectures` names.
    """
    module.forward = functools.partial(_unless_resuming, module, returned)


def _unless_resuming(module: nn.Module, returned: str, *args: Any, **kwargs: Any) -> Any:
    context = active_context()
    if context is None or context.hidden is None:
        return type(module).forward(module, *args, **kwargs)
    zeros = torch.zeros_like(context.hidden)
    if returned == CHANNELS_FIRST:
        return zeros.transpose(1, 2)
    return (zeros, zeros) if returned == PAIR else zeros


def _kept_hidden(embeddings: nn.Module) -> Tensor | None:
    context = active_context()
    return None if context is None or embeddings.training else context.hidden


def _shrink(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if _kept_hidden(module) is None:
        return None

    def first(value: Any) -> Any:
        return value[:1, :1] if isinstance(value, Tensor) and value.ndim > 1 else value

    return tuple(first(value) for value in args), {name: first(value) for name, value in kwargs.items()}


def _expand(module: nn.Module, args: Any, output: Any) -> Any:
    hidden = _kept_hidden(module)
    return None if hidden is None else output.expand(*hidden.shape[:2], -1)
