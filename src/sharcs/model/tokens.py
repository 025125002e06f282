"""The routed models whose answers lie in tokens: token classification and extractive question answering.

The width is chosen for a whole text: all its tokens run at one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, Unpack

import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification
from transformers.loss.loss_utils import ForQuestionAnsweringLoss, ForTokenClassification

from sharcs.config import SharcsConfig
from sharcs.errors import InputError
from sharcs.model.text import RoutedTextModel
from sharcs.subnetworks.base import mean_of_real_tokens
from sharcs.tasks.spans import over_real_tokens, span_task_of
from sharcs.tasks.tokens import token_task_of
from sharcs_runtime.scores import blended, confidence

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from sharcs.model.outputs import RoutingKwargs, SharcsOutput
    from sharcs.tasks.spans import SpanTask
    from sharcs.tasks.tokens import TokenTask
    from sharcs_runtime.policy import RoutingPolicy


class _AnswersInTokens(RoutedTextModel):
    """What both models share: the head runs on every token."""

    head_per_token = True

    def __init__(self, config: SharcsConfig, encoder: PreTrainedModel | None = None) -> None:
        """Wrap the encoder; what whole texts were classified for, which a checkpoint may name, is of no account."""
        super().__init__(config, encoder)
        config.problem_type = config.encoder.problem_type = None  # type: ignore[union-attr]


class SharcsForTokenClassification(_AnswersInTokens):
    """A classifier of tokens whose layers after the router run at a width of each text's own (paper, section 3).

    Where the policy escalates, a text's confidence is the mean over its real tokens of the highest probability: the
    share of tokens that are expected to be right.

    Args:
        config: The routed network's configuration.
        encoder: The full network with its task head, taken over as it is; by default one with random weights.
    """

    plain_class = AutoModelForTokenClassification
    problem_type = "token_classification"

    def training_task(self, rows: Any, class_weights: str | Sequence[float] | None) -> TokenTask:
        """Find out what training on some rows minimises; see :func:`sharcs.tasks.tokens.token_task_of`."""
        return token_task_of(self.config, rows, class_weights)

    def _confidence(self, policy: RoutingPolicy, answer: Tensor, real: Tensor | None) -> Tensor:
        of_tokens = confidence(answer, signal=policy.signal).unsqueeze(-1)  # [batch, tokens, 1]
        return mean_of_real_tokens(of_tokens, _mask(answer, real)).squeeze(-1)

    def _blended(self, policy: RoutingPolicy, later: Tensor, earlier: Tensor, real: Tensor | None) -> Tensor:
        return blended(later, earlier, policy.blend)  # type: ignore[no-any-return]

    def _loss(self, answer: Tensor, labels: Mapping[str, Tensor], **scale: Any) -> Tensor:
        return ForTokenClassification(answer, labels["labels"], self.encoder.config, **scale)  # type: ignore[no-any-return]


class SharcsForQuestionAnswering(_AnswersInTokens):
    """An extractive question answerer whose layers after the router run at a width of each text's own.

    Its answer is a score a token for being the first of the answer, and one for being the last. Where the policy
    escalates, a text's confidence is the probability of its best start times that of its best end, both among the
    real tokens.

    Args:
        config: The routed network's configuration.
        encoder: The full network with its task head, taken over as it is; by default one with random weights.
    """

    plain_class = AutoModelForQuestionAnswering
    problem_type = "question_answering"
    answer_fields = ("start_logits", "end_logits")

    @classmethod
    def from_encoder(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Put a router and sub-networks into a pretrained encoder; see the base class.

        Args:
            name_or_path: A name on the hub or a local directory.
            **kwargs: As there. The head has two outputs, start and end, whatever classes the checkpoint had.

        Raises:
            InputError: If the settings don't fit the encoder, its architecture can't be narrowed, or another number
                of labels than 2 is given.
        """
        return super().from_encoder(name_or_path, **{"num_labels": 2} | kwargs)

    @classmethod
    def _check_task(cls, config: SharcsConfig) -> None:
        super()._check_task(config)
        if config.num_labels != 2:
            raise InputError(f"num_labels {config.num_labels}: question answering has 2, start and end; leave it out")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **routing: Unpack[RoutingKwargs],
    ) -> SharcsOutput | tuple[Any, ...]:
        """Find answers in a batch of texts, each at its own width. Keywords that are not listed go to the encoder.

        Args:
            input_ids: Question and text, ``[batch, tokens]``.
            attention_mask: ``[batch, tokens]``, non-zero where a token is real.
            token_type_ids: ``[batch, tokens]``, for encoders that have them.
            position_ids: ``[batch, tokens]``.
            inputs_embeds: ``[batch, tokens, hidden]`` in place of ``input_ids``.
            start_positions: Of the answers' first tokens, int64 ``[batch]``. Those past the text don't count.
            end_positions: Of their last tokens. The loss is the mean of both positions' cross-entropies over all
                tokens, as in the plain model, padding among them.
            **routing: See :class:`~sharcs.model.outputs.RoutingKwargs`.

        Returns:
            :class:`SharcsOutput` with ``start_logits`` and ``end_logits``, ``[batch, tokens]``, and no ``logits``.

        Raises:
            InputError: If the network has no such width, or hidden states or attentions are asked for: inputs of one
                batch have them in different sizes.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        labels = {"start_positions": start_positions, "end_positions": end_positions}
        return self._forward(inputs, labels, **routing)  # type: ignore[no-any-return]

    def training_task(self, rows: Any, class_weights: str | Sequence[float] | None) -> SpanTask:
        """Find out what training on some rows minimises; see :func:`sharcs.tasks.spans.span_task_of`."""
        return span_task_of(rows, class_weights)

    def _confidence(self, policy: RoutingPolicy, answer: Tensor, real: Tensor | None) -> Tensor:
        logits = over_real_tokens(answer, _mask(answer, real)).transpose(1, 2)  # [batch, 2, tokens]
        return confidence(logits, signal=policy.signal).prod(dim=-1)  # type: ignore[no-any-return]

    def _blended(self, policy: RoutingPolicy, later: Tensor, earlier: Tensor, real: Tensor | None) -> Tensor:
        if policy.blend == 0:
            return later
        mask = _mask(later, real)
        later_scores, earlier_scores = (over_real_tokens(answer, mask).transpose(1, 2) for answer in (later, earlier))
        # Averaged are probabilities over the real tokens, so padding has none and may not come out on top.
        mixed: Tensor = blended(later_scores, earlier_scores, policy.blend).transpose(1, 2).to(later.dtype)
        return mixed.masked_fill(~mask.unsqueeze(-1), torch.finfo(later.dtype).min)

    def _loss(self, answer: Tensor, labels: Mapping[str, Tensor], **scale: Any) -> Tensor:
        start, end = answer.unbind(dim=-1)
        return ForQuestionAnsweringLoss(start, end, **labels, **scale)  # type: ignore[no-any-return]


def _mask(answer: Tensor, real: Tensor | None) -> Tensor:
    """Make the mask of real tokens, bool ``[batch, tokens]``."""
    return answer.new_ones(answer.shape[:2], dtype=torch.bool) if real is None else real != 0


for routed in (SharcsForTokenClassification, SharcsForQuestionAnswering):
    routed.plain_class.register(SharcsConfig, routed)
