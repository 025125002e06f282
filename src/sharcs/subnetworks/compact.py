"""A few narrow layers on the encoder's embeddings, and the mean of the tokens: a tenth of the encoder's cost.

Its layers are cut out of the full network's first ones, by importance, and then are its own, as those of
:class:`~sharcs.subnetworks.own.OwnSubnetwork`; they read the encoder's embeddings, which are fixed.
Of pairs of texts, a token that is in both has a vector added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sharcs.spec import MATCHED
from sharcs.subnetworks.base import keep_initialisation, mean_of_real_tokens
from sharcs.subnetworks.front import FrontSubnetwork, in_both_texts, texts_of_pairs
from sharcs.subnetworks.own import OwnSubnetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from torch import Tensor
    from transformers import PreTrainedConfig

    from sharcs.encoders.narrow import Arguments
    from sharcs.spec import SubnetworkSpec

DROPOUT = 0.1


class CompactSubnetwork(FrontSubnetwork):
    """The first layers of the encoder, narrow, and a classifier of their mean.

    Args:
        spec: Its description.
        labels: How many classes there are.
        layers: All layers of the full network.
        encoder_config: The full encoder's.
    """

    def __init__(
        self, spec: SubnetworkSpec, labels: int, layers: Sequence[nn.Module], encoder_config: PreTrainedConfig
    ) -> None:
        super().__init__(spec, labels)
        self.inner = OwnSubnetwork(spec, layers[: spec.layers], encoder_config)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(self.inner.config.hidden_size, labels)
        # Added to a token that the other text of a pair has, too; nothing at first.
        matches = spec.readout == MATCHED
        self.matched = nn.Parameter(torch.zeros(self.inner.config.hidden_size)) if matches else None
        keep_initialisation(self)

    def cost(self) -> tuple[float, float, float]:
        """Count the classifier's FLOPs; :mod:`sharcs.model.cost` counts layers."""
        return 2.0 * self.classifier.in_features * self.labels, 0.0, 0.0

    def in_both(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Tell which tokens of a pair the other text has, too, int64 ``[batch, tokens]``.

        The arguments are those of :meth:`sharcs.subnetworks.front.TokenSubnetwork.forward`.
        """
        real, second = texts_of_pairs(input_ids, attention_mask, token_type_ids)
        return in_both_texts(input_ids, real - second, second)

    def run(
        self,
        hidden: Tensor,
        arguments: list[Arguments],
        fast_layers: Sequence[Callable[..., Any]] | None = None,
        in_both: Tensor | None = None,
    ) -> Tensor:
        """Run its layers on the embeddings: ``[batch, tokens, hidden]`` in and out.

        Args:
            hidden: The embeddings.
            arguments: What the encoder hands to each layer besides, by position and by name.
            fast_layers: What runs in the place of its layers, prepared for inference.
            in_both: What :meth:`in_both` told of the batch.
        """
        if self.matched is not None and in_both is not None:
            hidden = hidden + (in_both.unsqueeze(-1) * self.matched).to(hidden.dtype)
        return self.inner.run(hidden, arguments, fast_layers)

    def classify(self, hidden: Tensor, real: Tensor | None) -> Tensor:
        """Read the mean of the real tokens, ``[batch, tokens]``, None if all are: logits ``[batch, labels]``."""
        logits: Tensor = self.classifier(self.dropout(mean_of_real_tokens(hidden, real)))
        return logits
