"""How one forward pass of the model speaks with the routed tail, past the encoder's own code between them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "RoutedLayers",
    "RoutingCall",
    "TrunkDone",
    "current_call",
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
        attention_mask: Which tokens are real, ``[batch, tokens]``, or None if all are.
        choose: Maps router logits ``[batch, widths]`` to width indices ``[batch]``.
        width_index: Forced width: one index for the whole batch, or ``[batch]``; else filled by the tail.
        router_logits: Filled by the tail, ``[batch, widths]``; not in a call that continues.
        hidden: Output of layer k, ``[batch, tokens, hidden]``: filled by the tail. A call that is given one
            continues from it: layers 1..k are not run, and the router isn't either.
        trunk_only: Whether the pass ends at the router, by :class:`TrunkDone`.
    """

    attention_mask: Tensor | None
    choose: Callable[[Tensor], Tensor]
    width_index: Tensor | int | None = None
    router_logits: Tensor | None = None
    hidden: Tensor | None = None
    trunk_only: bool = False

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


class RoutedLayers(nn.ModuleList):
    """The encoder's list of layers: 1..k, then the routed tail. A call that continues sees the tail alone."""

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over the layers that the current call has to run."""
        call = _CALL.get(None)
        if call is not None and call.hidden is not None:
            return iter([self[len(self) - 1]])
        return super().__iter__()


def trunk_layers(encoder: nn.Module) -> list[nn.Module]:
    """List layers 1..k of an encoder that is wrapped."""
    lists = [module for module in encoder.modules() if isinstance(module, RoutedLayers)]
    return [found[index] for found in lists for index in range(len(found) - 1)]


def skip_when_continuing(embeddings: nn.Module) -> None:
    """Let embeddings run on one token only in a call that continues, where nothing reads what they return.

    The encoder's own code still takes sizes from it, so it is expanded to them. Not in training, where a dropout
    draws numbers for every token.
    """
    embeddings.register_forward_pre_hook(_shrink, with_kwargs=True)
    embeddings.register_forward_hook(_expand)


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
    """Take some inputs' rows of an argument that has one row an input; pass everything else."""
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch:
        return value[rows]
    return value
