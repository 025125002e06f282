"""The routed classifier of texts, and what it shares with the models whose answers lie in tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification

from sharcs.config import SharcsConfig
from sharcs.model.base import EXAMPLE_TOKENS, RoutedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from sharcs.model.outputs import SharcsOutput

__all__ = ["RoutedTextModel", "SharcsForSequenceClassification"]


class RoutedTextModel(RoutedModel):
    """A routed model of texts, whatever it answers; a subclass says that, and has a ``forward`` with its labels."""

    main_input_name = "input_ids"
    input_modalities = "text"

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

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        width: float | None = None,
        width_index: Tensor | None = None,
        all_widths: bool = False,
        narrow_only: bool = False,
        trunk_only: bool = False,
        hidden: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SharcsOutput | tuple[Any, ...]:
        """Classify a batch, each input at its own width.

        Args:
            input_ids: ``[batch, tokens]``.
            attention_mask: ``[batch, tokens]``, non-zero where a token is real.
            token_type_ids: ``[batch, tokens]``, for encoders that have them.
            position_ids: ``[batch, tokens]``.
            inputs_embeds: ``[batch, tokens, hidden]`` in place of ``input_ids``.
            labels: Class indices ``[batch]``, or what the problem type takes.
            width: Forces one width for the whole batch, in place of the routing policy.
            width_index: Forces a width for each input: int64 ``[batch]``, indices into ``config.widths``.
            all_widths: Runs every width on every input, layers 1..k once; ``logits`` and ``loss`` are then those of
                the full width.
            narrow_only: With ``all_widths``, leaves the full width out, and layers 1..k without a gradient: what
                trains sub-networks with weights of their own. There are no ``logits`` and no ``loss`` then.
            trunk_only: Ends at the router: the result has ``router_logits``, ``width_index`` and ``hidden``.
            hidden: The ``hidden`` of inputs that ran the trunk, ``[batch, tokens, hidden]``, in place of
                ``input_ids``, with their ``attention_mask``: they continue at ``width``, layers k+1..L and the head.
                They may come from several batches, padded anew with whatever values.
            return_dict: False for a plain tuple.
            **kwargs: Passed to the encoder.

        Returns:
            :class:`SharcsOutput`.

        Raises:
            InputError: If the network has no such width, no width is named to continue at, or hidden states or
                attentions are asked for: inputs of one batch have them in different sizes.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        return self._classify(
            inputs | kwargs,
            labels={"labels": labels},
            width=width,
            width_index=width_index,
            all_widths=all_widths,
            narrow_only=narrow_only,
            trunk_only=trunk_only,
            hidden=hidden,
            return_dict=return_dict,
        )


SharcsForSequenceClassification.plain_class.register(SharcsConfig, SharcsForSequenceClassification)
