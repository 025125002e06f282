"""What differs between routed networks: the form of their answers, and what they know of their inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from sharcs.config import SharcsConfig
from sharcs.errors import InputError
from sharcs.model.cost import continuation_coefficients, cost_coefficients
from sharcs.model.tail import RoutedTail
from sharcs.tasks.base import problem_type_of
from sharcs_runtime.scores import blended, confidence
from sharcs_runtime.ways import Costs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sharcs_runtime.policy import RoutingPolicy

# Keywords of earlier versions, and what does the same.
RENAMED = {
    "all_widths": "widths='all'",
    "narrow_only": "widths='narrow'",
    "trunk_only": "run_trunk(...)",
    "hidden": "run_tail(hidden, attention_mask, width)",
}


class RoutedNetwork(PreTrainedModel):
    """What a subclass for another kind of input or answer may say anew; what all of them do with it stands elsewhere.

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

    @property
    def num_labels(self) -> int:
        """How many classes, or numbers, an answer has."""
        return int(self.config.num_labels or 0)

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

    def costs(self) -> Costs:
        """Count both for who has no use of tensors."""
        return Costs(self.cost_coefficients().cpu().numpy(), self.continuation_coefficients().cpu().numpy())

    # Answers

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

    def _confidence(self, policy: RoutingPolicy, answer: Tensor, real: Tensor | None) -> Tensor:
        """Measure how sure answers are of themselves, ``[batch]``; ``real`` tells tokens from padding."""
        return confidence(answer, self.config.problem_type, policy.signal)  # type: ignore[no-any-return]

    def _blended(self, policy: RoutingPolicy, later: Tensor, earlier: Tensor, real: Tensor | None) -> Tensor:
        """Average two networks' answers to the same inputs by the policy."""
        return blended(later, earlier, policy.blend, self.config.problem_type)  # type: ignore[no-any-return]

    def _loss(self, answer: Tensor, labels: Mapping[str, Tensor], **scale: Any) -> Tensor:
        """Compute the plain model's loss of an answer; ``num_items_in_batch`` is what a sum is divided by."""
        return ForSequenceClassificationLoss(labels["labels"], answer, self.encoder.config, **scale)

    # Inputs

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

    def _real_tokens(self, inputs: dict[str, Any], hidden: Tensor | None = None) -> Tensor | None:
        """Tell the tokens that are real, ``[batch, tokens]``, from the mask among inputs; None if all are."""
        return inputs.get("attention_mask")


def present(inputs: dict[str, Any]) -> dict[str, Any]:
    """Leave out inputs that are None, which stands for nothing.

    Raises:
        InputError: If hidden states or attentions are asked for, or something by the name that it had in earlier
            versions: encoders take any keyword, and say nothing.
    """
    for old, new in RENAMED.items():
        if old in inputs:
            raise InputError(f"{old}: is called otherwise now; write {new}")
    if inputs.get("output_hidden_states") or inputs.get("output_attentions"):
        raise InputError(
            "output_hidden_states, output_attentions: inputs of different widths have none of one shape; "
            "take them from the encoder before it is wrapped"
        )
    return {name: value for name, value in inputs.items() if value is not None}
