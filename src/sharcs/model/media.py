"""The routed classifiers of images and audio."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
)

from sharcs.config import SharcsConfig
from sharcs.encoders.architectures import architecture_of, body_of, frames_of, layers_config, least_samples
from sharcs.errors import InputError
from sharcs.model.base import EXAMPLE_TOKENS, RoutedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from sharcs.model.outputs import RoutingKwargs, SharcsOutput


class SharcsForImageClassification(RoutedModel):
    """A classifier of images whose layers after the router run at a width of each image's own.

    Its tokens are the patches and the special ones, such as a class token; the router reads the mean over all.

    Args:
        config: The routed network's configuration.
        encoder: The full network with its task head, taken over as it is; by default one with random weights.
    """

    main_input_name = "pixel_values"
    input_modalities = "image"
    plain_class = AutoModelForImageClassification

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        **routing: Unpack[RoutingKwargs],
    ) -> SharcsOutput | tuple[Any, ...]:
        """Classify a batch of images, each at its own width. Keywords that are not listed go to the encoder.

        Args:
            pixel_values: ``[batch, channels, height, width]``, as the encoder's image processor makes them.
            labels: Class indices ``[batch]``, or what the problem type takes.
            **routing: See :class:`~sharcs.model.outputs.RoutingKwargs`.

        Raises:
            InputError: If the network has no such width, or hidden states or attentions are asked for: inputs of one
                batch have them in different sizes.
        """
        return self._forward({"pixel_values": pixel_values}, {"labels": labels}, **routing)  # type: ignore[no-any-return]

    @classmethod
    def example(cls, encoder: PreTrainedModel) -> dict[str, Tensor]:
        """Make an image of noise in the size that the encoder is made for, ``[1, channels, height, width]``."""
        sizes = layers_config(encoder.config)
        side = sizes.image_size
        height, width = (side, side) if isinstance(side, int) else side
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn((1, sizes.num_channels, height, width), generator=generator)
        return {"pixel_values": pixels.to(encoder.device, encoder.dtype)}

    def token_count(self, row: Mapping[str, Any]) -> int:
        """Count the patches and special tokens of an image, ``[channels, height, width]``."""
        patches = next(m for m in body_of(self.encoder).modules() if isinstance(m, nn.Conv2d))
        sides = zip(np.shape(row["pixel_values"])[-2:], patches.kernel_size, patches.stride, strict=True)
        count = math.prod((side - kernel) // stride + 1 for side, kernel, stride in sides)
        return int(count) + architecture_of(self.encoder.config).special_tokens

    def _placeholder(self, hidden: Tensor) -> dict[str, Tensor]:
        """Stand in for the pixels of images that continue, which nothing reads."""
        return {"pixel_values": hidden.new_zeros(1).expand(len(hidden), 1, 1, 1)}


class SharcsForAudioClassification(RoutedModel):
    """A classifier of waves whose layers after the router run at a width of each wave's own.

    Its tokens are the frames that the encoder's convolutions make of a wave. The mask of samples says which are
    real, as the encoder itself reads it; give one if, and only if, the encoder's feature extractor does: those whose
    first norm goes over a whole wave (``feat_extract_norm="group"``) hear the padding.

    Args:
        config: The routed network's configuration.
        encoder: The full network with its task head, taken over as it is; by default one with random weights.
    """

    main_input_name = "input_values"
    input_modalities = "audio"
    plain_class = AutoModelForAudioClassification

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **routing: Unpack[RoutingKwargs],
    ) -> SharcsOutput | tuple[Any, ...]:
        """Classify a batch of waves, each at its own width. Keywords that are not listed go to the encoder.

        Args:
            input_values: ``[batch, samples]``, as the encoder's feature extractor makes them.
            attention_mask: ``[batch, samples]``, 1 where a sample is real; padding is at the end.
            labels: Class indices ``[batch]``.
            **routing: See :class:`~sharcs.model.outputs.RoutingKwargs`.

        Raises:
            InputError: If the network has no such width, or hidden states or attentions are asked for: inputs of one
                batch have them in different sizes; if labels are given for another task than one class of several.
        """
        if labels is not None and self.config.problem_type not in (None, "single_label_classification"):
            # The encoders' own loss is the cross-entropy of one class, whatever the configuration says.
            raise InputError(
                f"problem_type {self.config.problem_type}: waves have a loss for one class alone; drop it"
            )
        inputs = {"input_values": input_values, "attention_mask": attention_mask}
        return self._forward(inputs, {"labels": labels}, **routing)  # type: ignore[no-any-return]

    @classmethod
    def example(cls, encoder: PreTrainedModel) -> dict[str, Tensor]:
        """Make a short wave of noise, ``[1, samples]``."""
        samples = least_samples(encoder.config, EXAMPLE_TOKENS)
        wave = torch.randn((1, samples), generator=torch.Generator().manual_seed(0))
        wave = wave.to(encoder.device, encoder.dtype)
        return {"input_values": wave, "attention_mask": torch.ones_like(wave, dtype=torch.long)}

    def token_count(self, row: Mapping[str, Any]) -> int:
        """Count the frames of a wave: of its real samples, if the row says which they are."""
        real = row.get("attention_mask")
        samples = len(row["input_values"]) if real is None else int(np.asarray(real).sum())
        return frames_of(self.encoder.config, samples)

    def _placeholder(self, hidden: Tensor) -> dict[str, Tensor]:
        """Stand in for the samples of waves that continue, which nothing reads."""
        return {"input_values": hidden.new_zeros(1).expand(len(hidden), 1)}

    def _real_tokens(self, inputs: dict[str, Any], hidden: Tensor | None = None) -> Tensor | None:
        """Turn the mask of samples into one of frames, as the encoder does for its attention."""
        mask = inputs.get("attention_mask")
        if mask is None:
            return None
        if hidden is not None:
            frames = hidden.shape[1]
        else:
            frames = frames_of(self.encoder.config, inputs["input_values"].shape[1])
        return self.encoder._get_feature_vector_attention_mask(frames, mask)  # type: ignore[operator,no-any-return]


for routed in (SharcsForImageClassification, SharcsForAudioClassification):
    routed.plain_class.register(SharcsConfig, routed)
