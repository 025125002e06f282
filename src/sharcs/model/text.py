"""What the routed models of texts share: their inputs are tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sharcs.model.base import EXAMPLE_TOKENS, RoutedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = ["RoutedTextModel"]


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
