"""How one forward pass of the model speaks with the routed tail, past the encoder's own code between them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sharcs.encoders.narrow import Arguments
    from sharcs.subnetworks.compact import CompactSubnetwork
    from sharcs.subnetworks.fast import FastLayers


class TrunkDone(Exception):  # noqa: N818  # no error, but the way out of a pass that asked for the trunk alone
    """The tail raises it through the encoder's code, which differs between architectures, so that nothing is run."""


@dataclass(slots=True)
class RoutingContext:
    """What one pass of the encoder tells the routed tail, and what the tail tells back.

    The encoder's own code stands between the model and the tail and can't carry these, so they go beside it, in a
    context variable: two threads may run one model at once.

    Attributes:
        attention_mask: Which tokens are real, ``[batch, tokens]``, or None if all are; of audio, which frames.
        width_index: Forced width: one index for the whole batch, or ``[batch]``; else filled by the tail.
        choose: Where no width is forced: maps router logits ``[batch, widths]``, the output of layer k and
            ``attention_mask`` to width indices, int64 ``[batch]``.
        router_logits: Filled by the tail, ``[batch, widths]``; not in a pass that resumes or ends at the router.
        hidden: Output of layer k, ``[batch, tokens, hidden]``: filled by the tail. A pass that is handed one resumes
            from it: layers 1..k are not run, and the router isn't either.
        ends_at_router: Whether the pass ends before the router, by :class:`TrunkDone`.
        front: What runs on the embeddings, in the place of all layers; the pass then ends, by :class:`TrunkDone`.
        in_both: Of pairs, which tokens the other text has, too, ``[batch, tokens]``; None where that doesn't count.
        passes_on: Whether it doesn't end there, but goes on to an answer of no meaning: for who traces it.
        answered: Output of what stands in front, ``[batch, tokens, hidden]``.
        needs_router: Whether the router runs at all.
        fast: The layers prepared for inference, if the pass may run them.
        arguments: What the encoder handed to each layer after the router, by position and by name.
        requests: How many layers a list of repeated layers was asked for.
        normalise: Filled by the tail: maps input and output of the encoder's final norm to what follows it.
    """

    attention_mask: Tensor | None
    width_index: Tensor | int | None = None
    choose: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None
    router_logits: Tensor | None = None
    hidden: Tensor | None = None
    ends_at_router: bool = False
    front: CompactSubnetwork | None = None
    in_both: Tensor | None = None
    passes_on: bool = False
    answered: Tensor | None = None
    needs_router: bool = True
    fast: FastLayers | None = None
    arguments: list[Arguments] = field(default_factory=list)
    requests: int = 0
    normalise: Callable[[Tensor, Tensor], Tensor] | None = None

    def kept(self) -> Tensor:
        """Return the output of layer k, once there is one."""
        assert self.hidden is not None
        return self.hidden

    def width_indices(self) -> Tensor:
        """Return each input's width after the pass, int64 ``[batch]``."""
        if isinstance(self.width_index, Tensor):
            return self.width_index
        hidden = self.kept()
        assert self.width_index is not None
        return torch.full(hidden.shape[:1], self.width_index, device=hidden.device)

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
    """Take some inputs' rows of what has one row an input, also in tuples and dictionaries; pass everything else."""
    if isinstance(value, dict):
        return {name: select_rows(part, rows, batch) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(select_rows(part, rows, batch) for part in value)
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch:
        return value[rows]
    return value
