"""Sub-networks that answer before the encoder runs, and what of a batch ran the trunk after them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from sharcs.encoders.architectures import body_of
from sharcs.model.context import RoutingContext, TrunkDone
from sharcs.model.interface import RoutedNetwork
from sharcs.subnetworks.compact import CompactSubnetwork

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Kept:
    """What is kept of a batch for inputs that go on.

    Attributes:
        inputs: Of the inputs that ran the trunk, by name; of all where none did yet.
        context: Of the pass that ran the trunk; None where none did yet.
        rows: The inputs' places in the batch, ascending; None for all.
    """

    inputs: dict[str, Any] = field(repr=False)
    context: RoutingContext | None = None
    rows: Tensor | None = None


class FrontPasses(RoutedNetwork):
    """What a routed network does before its encoder runs."""

    def run_front(self, index: int, **inputs: Any) -> Tensor:
        """Run a sub-network that stands in front of the encoder. It is no ``forward``, as :meth:`run_trunk` is none.

        Args:
            index: Of the sub-network.
            **inputs: As for ``forward``, by name.

        Returns:
            The logits, ``[batch, labels]``.
        """
        subnetwork = self.tail.front[index]
        known = ("input_ids", "attention_mask", "token_type_ids")
        tokens = {name: inputs[name] for name in known if name in inputs}
        if not isinstance(subnetwork, CompactSubnetwork):
            logits: Tensor = subnetwork(**tokens)
            return logits
        if self.tail.arity is None:
            self._learn_arity()
        real = self._real_tokens(inputs)
        context = RoutingContext(real, front=subnetwork, passes_on=torch.compiler.is_compiling())
        if subnetwork.matched is not None:
            context.in_both = subnetwork.in_both(**tokens)
        context.fast = self.tail.usable_fast_layers()
        with context.active(), contextlib.suppress(TrunkDone):
            self.encoder(**inputs, return_dict=True)
        assert context.answered is not None
        return subnetwork.classify(context.answered, context.attention_mask)

    @torch.no_grad()
    def _learn_arity(self) -> None:
        """Run an example as far as layer k, for a model that resumes before any layer has shown what it returns."""
        context = RoutingContext(None, ends_at_router=True)
        # What autocast kept of a weight now would have no gradient later.
        autocast = torch.autocast(self.device.type, enabled=False)
        with torch.random.fork_rng(), autocast, context.active(), contextlib.suppress(TrunkDone):
            self.encoder(**self.example(self.encoder))

    def last_states(self, **inputs: Any) -> Tensor:
        """Run the full network below its head: the last layer's output, ``[batch, tokens, hidden]``."""
        context = RoutingContext(self._real_tokens(inputs), len(self.tail.names) - 1, needs_router=False)
        with context.active():
            states: Tensor = body_of(self.encoder)(**inputs, return_dict=True)[0]
        return states

    def _front_logits(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Run all that stand in front: ``[batch, labels]`` each."""
        return [self.run_front(index, **inputs) for index in range(len(self.tail.front))]

    def _begins_in_front(self, index: Tensor | int | None) -> bool:
        """Tell whether any of a batch begins in front of the encoder."""
        count = len(self.tail.front)
        if index is None or count == 0:
            return False
        return index < count if isinstance(index, int) else bool((index < count).any())
