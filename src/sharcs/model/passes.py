"""The passes of a routed classifier: at one width or at the policy's, at every width, continued, escalated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from sharcs.config import SharcsConfig
from sharcs.errors import InputError
from sharcs.model.context import RoutingContext, TrunkDone, select_rows
from sharcs.model.cost import continuation_coefficients, cost_coefficients, relative_cost
from sharcs.model.outputs import SharcsOutput
from sharcs.model.tail import RoutedTail
from sharcs.tasks.labels import problem_type_of
from sharcs_runtime.cascade import Cascade
from sharcs_runtime.policy import ROUTER, choose_width
from sharcs_runtime.scores import blended, confidence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["RoutedPasses"]


class RoutedPasses(PreTrainedModel):
    """What a network that has been wrapped does with a batch; :class:`~sharcs.model.base.RoutedModel` wraps it.

    Attributes:
        encoder: The full network with its task head, the routed tail inside.
        answer_fields: What the plain model's answer is called among its outputs.
        head_per_token: Whether its task head answers for every token.
    """

    config_class = SharcsConfig
    config: SharcsConfig
    encoder: PreTrainedModel
    answer_fields: ClassVar[tuple[str, ...]] = ("logits",)
    head_per_token: ClassVar[bool] = False
    _tail: list[RoutedTail]
    _counted: Tensor  # the cost, of copies that are made for inference

    @property
    def tail(self) -> RoutedTail:
        """The routed tail: router, layers k+1..L and sub-networks."""
        return self._tail[0]

    def cost_coefficients(self) -> Tensor:
        """FLOPs as polynomials in the length; see :func:`sharcs.model.cost.cost_coefficients`."""
        return cost_coefficients(self.encoder, self.tail, head_per_token=self.head_per_token)

    def continuation_coefficients(self) -> Tensor:
        """FLOPs of escalation; see :func:`sharcs.model.cost.continuation_coefficients`."""
        return continuation_coefficients(self.encoder, self.tail, head_per_token=self.head_per_token)

    # The answer, which has another form for another task

    @property
    def problem_type(self) -> str:
        """What it answers: as Hugging Face configurations name it, if they have a name for it."""
        return problem_type_of(self.config)

    @classmethod
    def answer_of(cls, outputs: Any) -> Tensor:
        """Take the answer from the plain model's outputs or from the routed one's: ``[batch, ...]``."""
        parts = [outputs[name] for name in cls.answer_fields]
        return parts[0] if len(parts) == 1 else torch.stack(parts, dim=-1)

    def _fields_of(self, answer: Tensor) -> dict[str, Tensor]:
        """Name an answer's parts as in the outputs."""
        parts = [answer] if len(self.answer_fields) == 1 else answer.unbind(dim=-1)
        return dict(zip(self.answer_fields, parts, strict=True))

    def _confidence(self, answer: Tensor, real: Tensor | None) -> Tensor:
        """Measure how sure answers are of themselves, ``[batch]``; ``real`` tells tokens from padding."""
        signal = self.config.routing_policy.signal
        return confidence(answer, self.config.problem_type, signal)  # type: ignore[no-any-return]

    def _blended(self, full: Tensor, narrow: Tensor, real: Tensor | None) -> Tensor:
        """Average two networks' answers to the same inputs by the policy."""
        policy = self.config.routing_policy
        return blended(full, narrow, policy.blend, self.config.problem_type)  # type: ignore[no-any-return]

    def _loss(self, answer: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Compute the plain model's loss of an answer."""
        return ForSequenceClassificationLoss(labels["labels"], answer, self.encoder.config)

    # What it knows of its inputs

    @classmethod
    def example(cls, encoder: PreTrainedModel) -> dict[str, Tensor]:
        """Make a small input of random numbers for a first run, a batch of one."""
        raise NotImplementedError

    def token_count(self, row: Mapping[str, Any]) -> int:
        """Count the tokens of a row of a data set, from the input alone."""
        raise NotImplementedError

    def _placeholder(self, hidden: Tensor) -> dict[str, Tensor]:
        """Stand in for inputs that continue from ``hidden``, ``[batch, tokens, hidden]``: sizes are read alone."""
        raise NotImplementedError

    def _real_tokens(self, attention_mask: Tensor | None, inputs: dict[str, Any], hidden: Tensor | None) -> Any:
        """Tell the tokens that are real, ``[batch, tokens]``, from the mask of inputs; None if all are."""
        return attention_mask

    def _classify(
        self,
        inputs: dict[str, Any],
        *,
        labels: Mapping[str, Tensor | None],
        width: float | None,
        width_index: Tensor | None,
        all_widths: bool,
        narrow_only: bool,
        trunk_only: bool,
        hidden: Tensor | None,
        return_dict: bool | None,
    ) -> SharcsOutput | tuple[Any, ...]:
        """Do what ``forward`` of every subclass does.

        Args:
            inputs: What the encoder is given, by name; None stands for nothing.
            labels: By the names that the encoder has for them. Without one of them there is no loss.
            width: As there, like all that follows.
            width_index: As there.
            all_widths: As there.
            narrow_only: As there.
            trunk_only: As there.
            hidden: As there.
            return_dict: As there.
        """
        if inputs.get("output_hidden_states") or inputs.get("output_attentions"):
            raise InputError(
                "output_hidden_states, output_attentions: inputs of different widths have none of one shape; "
                "take them from the encoder before it is wrapped"
            )
        inputs = {name: value for name, value in inputs.items() if value is not None}
        real = self._real_tokens(inputs.get("attention_mask"), inputs, hidden)
        context = RoutingContext(real, choose=self._choose)
        context.trunk_only = trunk_only or narrow_only
        if hidden is not None:
            if width is None:
                raise InputError("hidden: names no width to continue at; give one with width")
            context.hidden = hidden
            inputs |= self._placeholder(hidden)
        if all_widths:
            context.width_index = len(self.config.widths) - 1
        elif width is not None:
            context.width_index = self.config.index_of(width)
        elif width_index is not None:
            context.width_index = self._checked(width_index, inputs)
        escalates = context.width_index is None and self.config.routing_policy.escalates
        given = {name: value for name, value in labels.items() if value is not None}
        given = given if len(given) == len(labels) else {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not narrow_only):
            found, answer = self._run(context, inputs | given)
        if narrow_only:
            assert context.hidden is not None
            found["router_logits"] = self.tail.route(context.hidden, real)
        if all_widths:
            found["width_logits"] = self._every_width(context, inputs, answer)
        elif escalates and answer is not None:
            found |= self._escalated(context, inputs, answer, found["width_index"], given)
        result = SharcsOutput(**found)
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return result if wants_dict else result.to_tuple()

    def _run(self, context: RoutingContext, inputs: dict[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
        """Run the encoder once.

        Returns:
            What it and the tail found, by the names of :class:`SharcsOutput`, and its answer, if it came so far.
        """
        answer = None
        try:
            with context.active():
                outputs = self.encoder(**inputs, return_dict=True)
        except TrunkDone:
            found = {"hidden": context.hidden}
        else:
            answer = self.answer_of(outputs)
            found = {"loss": outputs.loss, **self._fields_of(answer)}
        return found | {"router_logits": context.router_logits, "width_index": context.width_index}, answer

    def _continue(
        self, context: RoutingContext, inputs: dict[str, Any], width_index: int, rows: Tensor | None = None
    ) -> Tensor:
        """Run another width from the kept output of layer k, for its answer: ``[rows, ...]``."""
        assert context.hidden is not None
        batch = len(context.hidden)
        if rows is not None:
            inputs = {name: select_rows(value, rows, batch) for name, value in inputs.items()}
        with context.resumed(width_index, rows).active():
            return self.answer_of(self.encoder(**inputs, return_dict=True))

    def _every_width(self, context: RoutingContext, inputs: dict[str, Any], full: Tensor | None) -> Tensor:
        narrow = [self._continue(context, inputs, index) for index in range(len(self.config.widths) - 1)]
        return torch.stack(narrow if full is None else [*narrow, full])

    def _escalated(
        self,
        context: RoutingContext,
        inputs: dict[str, Any],
        answer: Tensor,
        start: Tensor,
        labels: Mapping[str, Tensor],
    ) -> dict[str, Tensor | None]:
        """Let unsure answers escalate, step by step, as the policy says."""
        real = context.attention_mask
        cascade = Cascade(self.config.routing_policy, self.config.names, len(start))
        started = start.cpu().numpy()
        cascade.begin(np.arange(len(started)), started)
        for index, rows in cascade.pending().items():
            cascade.put(index, rows, scores=self._scores(answer, real, rows))
        while pending := cascade.pending():
            for index, rows in pending.items():
                at = torch.from_numpy(rows).to(answer.device)
                later = self._continue(context, inputs, index, at)
                answer = answer.index_copy(
                    0, at, self._blended(later, answer[at], None if real is None else real[at])
                )
                cascade.put(index, rows, scores=self._scores(answer, real, rows))
        return {
            "loss": self._loss(answer, labels) if labels else None,
            **self._fields_of(answer),
            "width_index": torch.from_numpy(cascade.answered_by).to(start.device),
            "first_width_index": start,
        }

    def _scores(self, answer: Tensor, real: Tensor | None, rows: NDArray[np.int64]) -> Any:
        """Measure how sure the answers of some rows are of themselves, as an array."""
        at = torch.from_numpy(rows).to(answer.device)
        scores = self._confidence(answer.detach()[at], None if real is None else real[at])
        return scores.float().cpu().numpy()

    def _checked(self, width_index: Tensor, inputs: dict[str, Any]) -> Tensor:
        count = len(self.config.widths)
        sample = next((inputs[name] for name in (self.main_input_name, "inputs_embeds") if name in inputs), None)
        if sample is not None and width_index.shape != sample.shape[:1]:
            raise InputError(
                f"width_index: has shape {list(width_index.shape)} for a batch of {len(sample)}; give one an input"
            )
        if len(width_index) and not 0 <= int(width_index.min()) <= int(width_index.max()) < count:
            raise InputError(f"width_index: has an index outside 0 to {count - 1}; the network has {count} widths")
        return width_index

    def _choose(self, context: RoutingContext) -> Tensor:
        """Apply the configured policy to the router's logits, with each input's own relative costs."""
        policy, logits = self.config.routing_policy, context.router_logits
        assert logits is not None
        if policy.cost_weight == 0 or policy.start != ROUTER:
            return choose_width(logits, None, policy, self.config.names)  # type: ignore[no-any-return]
        if context.attention_mask is not None:
            lengths = (context.attention_mask != 0).sum(dim=1)
        else:
            assert context.hidden is not None
            lengths = torch.full((len(logits),), context.hidden.shape[1], device=logits.device)
        coefficients = self.cost_coefficients() if self.tail.fast is None else self._counted
        relative = relative_cost(coefficients.to(lengths.device), lengths)
        return choose_width(logits, relative, policy)  # type: ignore[no-any-return]
