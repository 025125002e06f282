"""The passes of a routed network: by the policy, at one width, at every width; its trunk and its tail alone."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils.generic import can_return_tuple

from sharcs.errors import InputError
from sharcs.model.context import RoutingContext, TrunkDone, select_rows
from sharcs.model.front import FrontPasses, Kept
from sharcs.model.interface import present
from sharcs.model.outputs import SharcsOutput, TrunkOutput
from sharcs_runtime.cascade import Cascade
from sharcs_runtime.policy import ROUTER, choose_width, relative_cost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from sharcs_runtime.policy import RoutingPolicy


class RoutedPasses(FrontPasses):
    """What a network that has been wrapped does with a batch; :class:`~sharcs.model.base.RoutedModel` wraps it."""

    _counted: Tensor  # the cost, of copies that are made for inference

    @can_return_tuple  # type: ignore[untyped-decorator]
    def _forward(
        self,
        inputs: dict[str, Any],
        labels: Mapping[str, Tensor | None],
        width: float | str | None = None,
        width_index: Tensor | None = None,
        widths: str | None = None,
        **more: Any,
    ) -> SharcsOutput:
        """Do what ``forward`` of every subclass does; :class:`RoutingKwargs` says what is not said here.

        Args:
            inputs: What the encoder is given, by name; None stands for nothing.
            labels: By the names that the encoder has for them. Without one of them there is no loss.
            width: Forces one sub-network.
            width_index: Forces one for each input.
            widths: ``all``, ``narrow`` or ``front``.
            **more: Given to the encoder, too.
        """
        inputs = present({**inputs, **more})
        if widths == "narrow":
            return self._at_narrow_widths(inputs)
        if widths == "front":
            return SharcsOutput(width_logits=torch.stack(self._front_logits(inputs)))
        policy = self.config.routing_policy
        given = {name: value for name, value in labels.items() if value is not None}
        if len(given) < len(labels):
            given = {}
        forced = self._forced(inputs, width, width_index, widths)
        is_routed = forced is None
        start = self.tail.names.index(policy.start) if is_routed and policy.start != ROUTER else forced
        if self._begins_in_front(start):
            return self._from_front(policy if is_routed else None, inputs, start, given)  # type: ignore[arg-type]
        context = RoutingContext(self._real_tokens(inputs), forced)
        if is_routed:
            context.choose = functools.partial(self._choose, policy)
        outputs = self._encode(context, inputs | given)
        answer = self.answer_of(outputs)
        index = context.width_indices()
        fields = {"loss": outputs.loss, **self._fields_of(answer), "width_index": index}
        if widths is not None:
            every = [*self._front_logits(inputs), *self._narrow_answers(context, inputs), answer]
            fields["width_logits"] = torch.stack(every)
        elif is_routed and policy.escalates:
            fields |= self._escalated(policy, Kept(inputs, context), inputs, answer, index, given)
        return SharcsOutput(router_logits=context.router_logits, **fields)

    def run_trunk(self, start: int | None = None, /, **inputs: Any) -> TrunkOutput:
        """Run embeddings, layers 1..k and the router; inputs of several batches may then go on together.

        It is no ``forward``: hooks of the model and wrappers such as ``DistributedDataParallel`` don't see it.

        Args:
            start: Index of the sub-network that all of them go on with, so that the router needn't run.
            **inputs: As for ``forward``, by name.

        Raises:
            InputError: If hidden states or attentions are asked for.
        """
        hidden, real = self._run_trunk(present(inputs))
        if start is not None:
            return TrunkOutput(hidden, None, torch.full(hidden.shape[:1], start, device=hidden.device))
        router_logits = self.tail.route(hidden, real)
        index = self._choose(self.config.routing_policy, router_logits, hidden, real)
        return TrunkOutput(hidden, router_logits, index)

    def run_tail(self, hidden: Tensor, attention_mask: Tensor | None, width: float | str) -> Tensor:
        """Run layers k+1..L and the head at one width, on inputs that ran the trunk. It is no ``forward`` either.

        Args:
            hidden: ``hidden`` of :meth:`run_trunk`, ``[batch, tokens, hidden]``. The inputs may come from several
                batches, padded anew with whatever values.
            attention_mask: The mask that they ran the trunk with, padded anew; None if there was none.
            width: Of a sub-network inside the encoder: its width, or its name.

        Returns:
            The logits: ``[batch, labels]``, of tokens ``[batch, tokens, labels]``, of question answering
            ``[batch, tokens, 2]`` with start and end.

        Raises:
            InputError: If the network has no such width.
        """
        inputs = self._placeholder(hidden)
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        context = RoutingContext(self._real_tokens(inputs, hidden), hidden=hidden)
        return self._resume(context, inputs, self.config.index_of(width))

    def _encode(self, context: RoutingContext, inputs: dict[str, Any]) -> Any:
        """Run the encoder once, as the context says."""
        context.fast = self.tail.usable_fast_layers()
        with context.active():
            return self.encoder(**inputs, return_dict=True)

    def _run_trunk(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Run layers 1..k: their output, ``[batch, tokens, hidden]``, and which tokens are real, None if all are."""
        context = RoutingContext(self._real_tokens(inputs), ends_at_router=True)
        with contextlib.suppress(TrunkDone):
            self._encode(context, inputs)
        return context.kept(), context.attention_mask

    def _resume(
        self, context: RoutingContext, inputs: dict[str, Any], width_index: int, rows: Tensor | None = None
    ) -> Tensor:
        """Run another width from the kept output of layer k, on some rows, for the answer: ``[rows, ...]``."""
        if self.tail.arity is None:
            self._learn_arity()
        parts = (context.attention_mask, context.kept(), inputs)
        real, hidden, inputs = parts if rows is None else select_rows(parts, rows, len(context.kept()))
        return self.answer_of(self._encode(RoutingContext(real, width_index, hidden=hidden), inputs))

    def _narrow_answers(self, context: RoutingContext, inputs: dict[str, Any]) -> list[Tensor]:
        front = len(self.tail.front)
        return [self._resume(context, inputs, front + index) for index in range(len(self.tail.narrow))]

    def _at_narrow_widths(self, inputs: dict[str, Any]) -> SharcsOutput:
        """Run every width but the full one, and the router, from layers 1..k without a gradient."""
        with torch.no_grad():
            hidden, real = self._run_trunk(inputs)
        narrow = self._narrow_answers(RoutingContext(real, hidden=hidden), inputs)
        return SharcsOutput(router_logits=self.tail.route(hidden, real), width_logits=torch.stack(narrow))

    def _from_front(
        self,
        policy: RoutingPolicy | None,
        inputs: dict[str, Any],
        start: Tensor | int,
        labels: Mapping[str, Tensor],
    ) -> SharcsOutput:
        """Answer inputs of which some begin in front of the encoder; without a policy they stay where they begin."""
        if isinstance(start, int):
            answer = self.run_front(start, **inputs)
            index = torch.full(answer.shape[:1], start, device=answer.device)
        else:
            answer, index = self._each_at(start, inputs), start
        fields = {
            "loss": self._loss(answer, labels) if labels else None,
            **self._fields_of(answer),
            "width_index": index,
        }
        if policy is not None and policy.escalates:
            fields |= self._escalated(policy, Kept(inputs), inputs, answer, index, labels)
        return SharcsOutput(**fields)

    def _each_at(self, index: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Answer each input by a sub-network of its own, of which some stand in front: ``[batch, ...]``."""
        answer = None
        for number in index.unique().tolist():
            rows = torch.nonzero(index == number).squeeze(1)
            part = self._step(Kept(inputs), number, rows, len(index))
            answer = part.new_zeros(len(index), *part.shape[1:]) if answer is None else answer
            answer = answer.index_copy(0, rows, part)
        assert answer is not None
        return answer

    def _step(self, kept: Kept, index: int, rows: Tensor, batch: int) -> Tensor:
        """Run a sub-network on some inputs, from what is kept of them if they ran the trunk: ``[rows, ...]``."""
        if index < len(self.tail.front):
            return self.run_front(index, **select_rows(kept.inputs, rows, batch))
        if kept.context is None:
            kept.inputs, kept.rows = select_rows(kept.inputs, rows, batch), rows
            kept.context = RoutingContext(self._real_tokens(kept.inputs), index, needs_router=False)
            return self.answer_of(self._encode(kept.context, kept.inputs))
        # On a way through the sub-networks, those that run later are among those that ran before.
        at = rows if kept.rows is None else torch.searchsorted(kept.rows, rows)
        return self._resume(kept.context, kept.inputs, index, at)

    def _escalated(
        self,
        policy: RoutingPolicy,
        kept: Kept,
        inputs: dict[str, Any],
        answer: Tensor,
        start: Tensor,
        labels: Mapping[str, Tensor],
    ) -> dict[str, Tensor | None]:
        """Let unsure answers escalate, step by step, as the policy says."""
        real = self._real_tokens(inputs) if kept.context is None else kept.context.attention_mask
        cascade = Cascade(policy, self.tail.names, len(start))
        cascade.begin(np.arange(len(start)), start.cpu().numpy())
        scores = self._scores(policy, answer, real)
        unsure = [cascade.put(index, rows, scores=scores[rows]) for index, rows in cascade.pending().items()]
        pending = cascade.pending() if any(rows.any() for rows in unsure) else {}
        while pending:
            for index, rows in pending.items():
                at = torch.from_numpy(rows).to(answer.device)
                real_of_rows = None if real is None else real[at]
                later = self._step(kept, index, at, len(start))
                mixed = self._blended(policy, later, answer[at], real_of_rows)
                answer = answer.index_copy(0, at, mixed)
                cascade.put(index, rows, scores=self._scores(policy, mixed, real_of_rows))
            pending = cascade.pending()
        return {
            "loss": self._loss(answer, labels) if labels else None,
            **self._fields_of(answer),
            "width_index": torch.from_numpy(cascade.answered_by).to(start.device),
            "first_width_index": start,
        }

    def _scores(self, policy: RoutingPolicy, answer: Tensor, real: Tensor | None) -> NDArray[np.float32]:
        """Measure how sure answers are of themselves, as an array ``[batch]``."""
        scores: NDArray[np.float32] = self._confidence(policy, answer.detach(), real).cpu().numpy()
        return scores

    # Widths

    def _forced(
        self, inputs: dict[str, Any], width: float | str | None, width_index: Tensor | None, widths: str | None
    ) -> Tensor | int | None:
        """Say which width is forced: one index for the batch, or one for each input; None if the policy chooses."""
        if widths is not None:
            if widths != "all":
                raise InputError(f"widths {widths!r}: has to be 'all', 'narrow' or 'front'; one alone is width")
            return len(self.tail.names) - 1
        if width is not None:
            return self.config.index_of(width)
        if width_index is None:
            return None
        batch = next((inputs[name] for name in (self.main_input_name, "inputs_embeds") if name in inputs), None)
        if batch is not None and width_index.shape != batch.shape[:1]:
            raise InputError(
                f"width_index: has shape {list(width_index.shape)} for a batch of {len(batch)}; give one an input"
            )
        count = len(self.tail.names)
        if len(width_index) and not 0 <= int(width_index.min()) <= int(width_index.max()) < count:
            raise InputError(f"width_index: has an index outside 0 to {count - 1}; the network has {count} widths")
        return width_index

    def _choose(
        self, policy: RoutingPolicy, router_logits: Tensor, hidden: Tensor, attention_mask: Tensor | None
    ) -> Tensor:
        """Apply a policy to the router's logits, with each input's own relative costs."""
        if policy.cost_weight == 0 or policy.start != ROUTER:
            return choose_width(router_logits, None, policy, self.tail.names)  # type: ignore[no-any-return]
        if attention_mask is not None:
            lengths = (attention_mask != 0).sum(dim=1)
        else:
            lengths = torch.full((len(hidden),), hidden.shape[1], device=hidden.device)
        coefficients = self.cost_coefficients() if self.tail.fast is None else self._counted
        relative = relative_cost(coefficients.to(lengths.device), lengths)  # [batch, sub-networks]
        return choose_width(router_logits, relative, policy)  # type: ignore[no-any-return]
