"""How one forward pass of the model speaks with the routed tail, past the encoder's own code between them."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sharcs.encoders.architectures import CHANNELS_FIRST, PAIR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sharcs.encoders.narrow import Arguments

__all__ = [
    "RoutedLayers",
    "RoutingCall",
    "Slot",
    "StandIn",
    "TrunkDone",
    "current_call",
    "form_of",
    "in_form",
    "leave_out_when_continuing",
    "own_where_narrow",
    "select_rows",
    "skip_when_continuing",
    "trunk_layers",
]


class TrunkDone(Exception):  # noqa: N818  # no error, but the way out of a pass that asked for the trunk alone
    """The tail raises it through the encoder's code, which differs between architectures, so that nothing is run."""


@dataclass(slots=True)
class RoutingCall:
    """What one forward pass tells the routed tail, and what the tail tells back.

    The encoder's own code stands between the model and the tail and can't carry these, so they go beside it, in a
    context variable: two threads may run one model at once.

    Attributes:
        attention_mask: Which tokens are real, ``[batch, tokens]``, or None if all are; of waves, which frames.
        choose: Maps this call, once it has router logits, to width indices ``[batch]``. It is handed the call rather
            than a closure over it: in a circle, tensors of megabytes would live until Python's collector comes by.
        width_index: Forced width: one index for the whole batch, or ``[batch]``; else filled by the tail.
        router_logits: Filled by the tail, ``[batch, widths]``; not in a call that continues.
        hidden: Output of layer k, ``[batch, tokens, hidden]``: filled by the tail. A call that is given one
            continues from it: layers 1..k are not run, and the router isn't either.
        trunk_only: Whether the pass ends at the router, by :class:`TrunkDone`.
        arguments: What the encoder handed to each layer after the router, by position and by name.
        requests: How many layers a list of repeated layers was asked for.
        normalise: Filled by the tail: maps input and output of the encoder's final norm to what follows it.
    """

    attention_mask: Tensor | None
    choose: Callable[[RoutingCall], Tensor]
    width_index: Tensor | int | None = None
    router_logits: Tensor | None = None
    hidden: Tensor | None = None
    trunk_only: bool = False
    arguments: list[Arguments] = field(default_factory=list)
    requests: int = 0
    normalise: Callable[[Tensor, Tensor], Tensor] | None = None

    def continued(self, width_index: int, rows: Tensor | None = None) -> RoutingCall:
        """Make the call that runs another width from the kept output of layer k, on some rows of the batch."""
        assert self.hidden is not None
        if rows is None:
            return RoutingCall(self.attention_mask, self.choose, width_index, hidden=self.hidden)
        mask = None if self.attention_mask is None else self.attention_mask[rows]
        return RoutingCall(mask, self.choose, width_index, hidden=self.hidden[rows])

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the call that the tail sees."""
        token = _CALL.set(self)
        try:
            yield
        finally:
            _CALL.reset(token)


_CALL: ContextVar[RoutingCall] = ContextVar("sharcs_routing_call")


def current_call() -> RoutingCall:
    """Return the call that runs in this thread."""
    return _CALL.get()


class RoutedLayers(nn.Module):
    """The encoder's list of layers: 1..k as they are, a slot in the place of each later one, and the routed tail.

    The layers are registered by their own names, so a wrapped encoder's weights are called what they were called.
    In a call that continues, slots stand for layers 1..k, too.

    Args:
        layers: All L layers in their order; fewer modules may come several times.
        tail: The routed tail, which runs layers k+1..L.
        repeated: Whether the encoder asks for a few layers again and again, by an index that doesn't tell the
            position: then the L-th request of a call is for layer L, whatever the index.
    """

    def __init__(self, layers: list[nn.Module], tail: nn.Module, *, repeated: bool = False) -> None:
        """Register layers and tail, and make the slots."""
        super().__init__()
        for index, layer in enumerate(dict.fromkeys(layers)):
            self.add_module(str(index), layer)
        self.add_module("tail", tail)
        self._order, self._repeated = layers, repeated
        depth = len(layers) - tail.router_layer  # type: ignore[operator]
        self.trunk = tail.trunk = layers[:-depth]  # type: ignore[assignment]
        self._slots = [Slot(tail, layer, position) for position, layer in enumerate(layers)]
        self.trunk[-1].register_forward_hook(functools.partial(_remember_form, tail))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over what runs at each position in the current call."""
        return iter([self._at(position) for position in range(len(self._order))])

    def __len__(self) -> int:
        """Count the positions: L; of repeated layers, the modules."""
        return len(set(self._order)) if self._repeated else len(self._order)

    def __getitem__(self, index: Any) -> Any:
        """Take what runs at a position, or at some of them."""
        if not self._repeated:
            return list(self)[index]
        call = current_call()
        position, call.requests = call.requests, call.requests + 1
        return self._at(position)

    def _at(self, position: int) -> Any:
        call = _CALL.get(None)
        if position >= len(self.trunk) or not (call is None or call.hidden is None):
            return self._slots[position]
        ready = self._slots[position].tail.ready()
        return self.trunk[position] if ready is None else ready.trunk[position]

    def plain(self) -> nn.ModuleList:
        """Make the list that the encoder had before."""
        return nn.ModuleList(list(dict.fromkeys(self._order)))


class StandIn:
    """What runs in the place of a layer, and has the layer's attributes: encoders read some.

    No module, since it has nothing of its own.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        """Keep it."""
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        """Read an attribute of the layer."""
        if name.startswith("__") or "layer" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.layer, name)


class Slot(StandIn):
    """What stands for a layer that doesn't run where the encoder has it.

    After the router, it keeps what the layer is handed, and the last one runs the tail. Before, it stands for a
    layer that ran in an earlier call.

    Args:
        tail: The routed tail.
        layer: The layer that it stands for.
        position: That layer's, from 0.
    """

    def __init__(self, tail: Any, layer: nn.Module, position: int) -> None:
        """Keep them."""
        super().__init__(layer)
        self.tail, self.position = tail, position - tail.router_layer

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take what the encoder hands to the layer; the hidden states pass to the next slot as they are."""
        call = current_call()
        if self.position >= 0:
            call.arguments.append((args, kwargs))
        if self.tail.form is None:
            self.tail.form = self._form(hidden, args, kwargs)
        is_last = self.position == len(self.tail.layers) - 1
        states = self.tail(hidden, call.arguments) if is_last else hidden
        return in_form(states, self.tail.form)

    @torch.no_grad()
    def _form(self, hidden: Tensor, args: Any, kwargs: Any) -> int:
        """Run the layer for the form of what it returns: in a call that continues, no other layer has shown it."""
        kind = hidden.device.type
        # Without a gradient now, weights that autocast keeps would have none later.
        autocast = torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
        with torch.random.fork_rng(), autocast:
            return form_of(self.layer(hidden, *args, **kwargs))


def _remember_form(tail: Any, module: nn.Module, args: Any, output: Any) -> None:
    tail.form = form_of(output)


def form_of(output: Any) -> int:
    """Count what a layer returns: 0 for hidden states alone, else the length of the tuple that starts with them."""
    return len(output) if isinstance(output, tuple) else 0


def in_form(states: Tensor, form: int) -> Any:
    """Return hidden states as a layer does that :func:`form_of` counted, nothing beside them."""
    return states if form == 0 else (states, *[None] * (form - 1))


def trunk_layers(encoder: nn.Module) -> list[nn.Module]:
    """List layers 1..k of an encoder that is wrapped."""
    return [layer for module in encoder.modules() if isinstance(module, RoutedLayers) for layer in module.trunk]


def own_where_narrow(final_norm: nn.Module) -> None:
    """Let sub-networks that share weights have a final norm of their own in the place of the encoder's."""
    final_norm.register_forward_hook(_normalise)


def _normalise(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    call = _CALL.get(None)
    return output if call is None or call.normalise is None else call.normalise(inputs[0], output)


def skip_when_continuing(embeddings: nn.Module) -> None:
    """Let embeddings run on one token only in a call that continues, where nothing reads what they return.

    The encoder's own code still takes sizes from it, so it is expanded to them. Not in training, where a dropout
    draws numbers for every token.
    """
    embeddings.register_forward_pre_hook(_shrink, with_kwargs=True)
    embeddings.register_forward_hook(_expand)


def leave_out_when_continuing(module: nn.Module, form: str) -> None:
    """Don't run a module that leads to layer 1 in a call that continues, where nothing reads what it returns.

    The encoder's own code still takes sizes from it, and some of it writes into it, so it is zeros. No hook, since
    those come before or after the module's own code, which here costs more than a sub-network.

    Args:
        module: It maps inputs to hidden states, or hidden states to hidden states.
        form: What it returns, one of those that :mod:`sharcs.encoders.architectures` names.
    """
    module.forward = functools.partial(_unless_continuing, module, form)


def _unless_continuing(module: nn.Module, form: str, *args: Any, **kwargs: Any) -> Any:
    call = _CALL.get(None)
    if call is None or call.hidden is None:
        return type(module).forward(module, *args, **kwargs)
    zeros = torch.zeros_like(call.hidden)
    if form == CHANNELS_FIRST:
        return zeros.transpose(1, 2)
    return (zeros, zeros) if form == PAIR else zeros


def _kept_hidden(embeddings: nn.Module) -> Tensor | None:
    call = _CALL.get(None)
    return None if call is None or embeddings.training else call.hidden


def _shrink(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if _kept_hidden(module) is None:
        return None

    def first(value: Any) -> Any:
        return value[:1, :1] if isinstance(value, Tensor) and value.ndim > 1 else value

    return tuple(first(value) for value in args), {name: first(value) for name, value in kwargs.items()}


def _expand(module: nn.Module, args: Any, output: Any) -> Any:
    hidden = _kept_hidden(module)
    return None if hidden is None else output.expand(*hidden.shape[:2], -1)


def select_rows(value: Any, rows: Tensor, batch: int) -> Any:
    """Take some inputs' rows of an argument that has one row an input, also in a tuple; pass everything else."""
    if isinstance(value, tuple):
        return tuple(select_rows(part, rows, batch) for part in value)
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch:
        return value[rows]
    return value
