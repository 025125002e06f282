"""How one forward pass of the model speaks with the routed tail, past the encoder's own code between them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sharcs.encoders.narrow import Arguments

__all__ = ["RoutingContext", "TrunkDone", "active_context", "current_context", "select_rows"]


class TrunkDone(Exception):  # noqa: N818  # no error, but the way out of a pass that asked for the trunk alone
    """The tail raises it through the encoder's code, which differs between architectures, so that nothing is run."""


@dataclass(slots=True)
class RoutingContext:
    """What one forward pass tells the routed tail, and what the tail tells back.

    The encoder's own code stands between the model and the tail and can't carry these, so they go beside it, in a
    context variable: two threads may run one model at once.

    Attributes:
        attention_mask: Which tokens are real, ``[batch, tokens]``, or None if all are; of audio, which frames.
        choose: Maps this context, once it has router logits, to width indices ``[batch]``. It is handed the context
            rather than a closure over it: in a circle, tensors of megabytes would live until Python's collector
            comes by.
        width_index: Forced width: one index for the whole batch, or ``[batch]``; else filled by the tail.
        router_logits: Filled by the tail, ``[batch, widths]``; not in a pass that resumes.
        hidden: Output of layer k, ``[batch, tokens, hidden]``: filled by the tail. A pass that is handed one resumes
            from it: layers 1..k are not run, and the router isn't either.
        trunk_only: Whether the pass ends at the router, by :class:`TrunkDone`.
        arguments: What the encoder handed to each layer after the router, by position and by name.
        requests: How many layers a list of repeated layers was asked for.
        normalise: Filled by the tail: maps input and output of the encoder's final norm to what follows it.
    """

    attention_mask: Tensor | None
    choose: Callable[[RoutingContext], Tensor]
    width_index: Tensor | int | None = None
    router_logits: Tensor | None = None
    hidden: Tensor | None = None
    trunk_only: bool = False
    arguments: list[Arguments] = field(default_factory=list)
    requests: int = 0
    normalise: Callable[[Tensor, Tensor], Tensor] | None = None

    def resumed(self, width_index: int, rows: Tensor | None = None) -> RoutingContext:
        """Make the context of a pass that runs another width from the kept output of layer k, on some rows."""
        assert self.hidden is not None
        if rows is None:
            return RoutingContext(self.attention_mask, self.choose, width_index, hidden=self.hidden)
        mask = None if self.attention_mask is None else self.attention_mask[rows]
        return RoutingContext(mask, self.choose, width_index, hidden=self.hidden[rows])

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the context that the tail sees."""
        token = _CONTEXT.set(self)
        try:
            yield
        finally:
            _CONTEXT.reset(token)


_CONTEXT: ContextVar[RoutingContext] = ContextVar("sharcs_routing_context")


def current_context() -> RoutingContext:
    """Return the context of the pass that runs in this thread.

    Raises:
        LookupError: If none runs.
    """
    return _CONTEXT.get()


def active_context() -> RoutingContext | None:
    """Return the same, or None where no pass runs: somebody calls a part of the encoder directly."""
    return _CONTEXT.get(None)


def select_rows(value: Any, rows: Tensor, batch: int) -> Any:
    """Take some inputs' rows of an argument that has one row an input, also in a tuple; pass everything else."""
    if isinstance(value, tuple):
        return tuple(select_rows(part, rows, batch) for part in value)
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch:
        return value[rows]
    return value
