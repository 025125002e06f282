"""What of a tokenised row a model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sharcs.data.images.pixels import ImageRows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sharcs.model.base import RoutedModel

# What tokenizers, image processors and feature extractors make.
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "input_values")


def model_inputs(row: Mapping[str, Any]) -> dict[str, Any]:
    """Take of a row what a tokenizer or another processor makes and a model reads, without labels and lengths."""
    return {name: row[name] for name in MODEL_INPUTS if name in row}


def token_counts(model: RoutedModel, rows: Any) -> list[int]:
    """Count the tokens of each row of a map-style data set; of images, which have one size, without reading all."""
    if isinstance(rows, ImageRows):
        return [model.token_count(rows[0])] * len(rows)
    return [model.token_count(row) for row in rows]
