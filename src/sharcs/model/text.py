"""The routed classifier of texts, and what it shares with the models whose answers lie in tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import torch
from transformers import AutoModelForSequenceClassification

from sharcs.config import SharcsConfig
from sharcs.model.base import EXAMPLE_TOKENS, RoutedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from sharcs.model.outputs import RoutingKwargs, SharcsOutput


class RoutedTextModel(RoutedModel):
    """A routed model of texts, whatever it answers."""

    main_input_name = "input_ids"
    input_modalities = "text"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **routing: Unpack[RoutingKwargs],
    ) -> SharcsOutput | tuple[Any, ...]:
        """Answer a batch of texts, each at its own width. Keywords that are not listed go to the encoder.

        Args:
            input_ids: ``[batch, tokens]``.
            attention_mask: ``[batch, tokens]``, non-zero where a token is real.
            token_type_ids: ``[batch, tokens]``, for encoders that have them.
            position_ids: ``[batch, tokens]``.
            inputs_embeds: ``[batch, tokens, hidden]`` in place of ``input_ids``.
            labels: Class indices ``[batch]``, or what the problem type takes; of token classification
                ``[batch, tokens]``, −100 for tokens that don't count: the loss is the mean over those that do.
            **routing: See :class:`~sharcs.model.outputs.RoutingKwargs`.

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
        return self._forward(inputs, {"labels": labels}, **routing)  # type: ignore[no-any-return]

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resize the encoder's embeddings; its own configuration holds the size of the vocabulary."""
        return self.encoder.resize_token_embeddings(*args, **kwargs)

    @classmethod
    def example(cls, encoder: PreTrainedModel) -> dict[str, Tensor]:
        """Make a text of random tokens, ``[1, tokens]``."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(int(encoder.config.vocab_size), (1, EXAMPLE_TOKENS), generator=generator)
        ids = ids.to(encoder.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def token_count(self, row: Mapping[str, Any]) -> int:
        """Count the tokens of a tokenised row."""
        return len(row["input_ids"])

    def _placeholder(self, hidden: Tensor) -> dict[str, Tensor]:
        """Stand in for the embeddings of inputs that continue, of which the encoder reads the sizes alone."""
        size = int(self.get_input_embeddings().embedding_dim)  # type: ignore[arg-type]
        return {"inputs_embeds": hidden.new_zeros(1).expand(*hidden.shape[:2], size)}


class SharcsForSequenceClassification(RoutedTextModel):
    """A sequence classifier whose layers after the router run at a width of each input's own (paper, section 3).

    Args:
        config: The routed network's configuration.
        encoder: The full network with its task head, taken over as it is; by default one with random weights.
    """

    plain_class = AutoModelForSequenceClassification


SharcsForSequenceClassification.plain_class.register(SharcsConfig, SharcsForSequenceClassification)
