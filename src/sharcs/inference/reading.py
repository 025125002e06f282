"""What a network reads of data: tokenised texts, or the pixels of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from sharcs.data.images.pixels import ImageRows, collate_images
from sharcs.data.tokens import tokenise
from sharcs.encoders.architectures import layers_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedConfig

    from sharcs.data.texts import TextData


def rows_of(
    data: TextData, processor: Any, encoder_config: PreTrainedConfig, label2id: dict[str, int] | None = None
) -> Any:
    """Make a map-style data set of texts or images, as models take its rows.

    Args:
        data: Texts, or the files of images.
        processor: The encoder's tokenizer, whose ``model_max_length`` is what it reads of a text; or its image
            processor.
        encoder_config: The encoder's configuration.
        label2id: The number of each label, to have labels among the rows.

    Raises:
        InputError: If there is no room for text, or a label is not in ``label2id``.
    """
    if isinstance(processor, PreTrainedTokenizerBase):
        return tokenise(data, processor, max_length=processor.model_max_length, label2id=label2id)
    return ImageRows(data, processor, channels_of(encoder_config), label2id)


def collator_of(processor: Any) -> Callable[[list[Any]], Any]:
    """Make what joins such rows to a batch."""
    return DataCollatorWithPadding(processor) if isinstance(processor, PreTrainedTokenizerBase) else collate_images


def channels_of(encoder_config: PreTrainedConfig) -> int:
    """Count the channels of an encoder's images."""
    return int(layers_config(encoder_config).num_channels)
