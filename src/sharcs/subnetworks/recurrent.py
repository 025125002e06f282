"""A small recurrent network on vectors of tokens: one percent of the encoder's cost (Tang et al., arXiv 1903.12136).

Two GRUs read each text, one from its beginning and one from its end, and a classifier reads mean and maximum of their
outputs. The vectors begin as principal components of what the encoder says about every token alone, as in model2vec.
Of pairs of texts, each token is compared with what the other text has of it, as in ESIM (Chen et al., ACL 2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sharcs.subnetworks.base import keep_initialisation, mean_of_real_tokens
from sharcs.subnetworks.front import TokenSubnetwork, in_both_texts

if TYPE_CHECKING:
    from sharcs.spec import SubnetworkSpec

LOWEST = -1e4  # in the place of padding, where a maximum is taken


class RecurrentSubnetwork(TokenSubnetwork):
    """A classifier of texts, or of pairs of texts; see :class:`~sharcs.subnetworks.front.TokenSubnetwork`."""

    def __init__(self, spec: SubnetworkSpec, labels: int, vocabulary: int) -> None:
        super().__init__(spec, labels, vocabulary)
        units = spec.neurons
        self.forwards = nn.GRU(spec.hidden, units, batch_first=True)
        self.backwards = nn.GRU(spec.hidden, units, batch_first=True)
        # Of a pair: a token, its like in the other text, their difference and product.
        self.compare = nn.Linear(8 * units, 2 * units) if self.compares else None
        self.classifier = nn.Linear((8 if self.compares else 4) * units, labels)
        # Added to a token that the other text has, too; nothing at first.
        self.matched = nn.Parameter(torch.zeros(spec.hidden)) if self.matches else None
        keep_initialisation(self)

    @torch.no_grad()
    def fill(self, vectors: Tensor) -> None:
        """Begin with vectors of the tokens, ``[vocabulary, hidden]``."""
        self.vectors.weight.copy_(vectors)

    def cost(self) -> tuple[float, float, float]:
        """Count FLOPs; of a pair, every token is compared with every one, of which masks leave those of the other."""
        size, units = self.spec.hidden, self.spec.neurons
        steps = 2 * 2.0 * 3 * units * (size + units)
        head = 2.0 * self.classifier.in_features * self.labels
        if self.compare is None:
            return head, steps, 0.0
        compared = 2.0 * self.compare.in_features * self.compare.out_features
        return head, steps + compared, 2 * 2.0 * 2 * units

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Classify a batch; see :class:`~sharcs.subnetworks.front.TokenSubnetwork`."""
        real, second = self._texts_of(input_ids, attention_mask, token_type_ids)
        vectors = self.vectors(input_ids)
        if second is None:
            return self._classified([self._pooled(self._read(vectors, real), real)])
        first = real - second
        if self.matched is not None:
            vectors = vectors + in_both_texts(input_ids, first, second).unsqueeze(-1) * self.matched
        outputs = self._read(vectors, real)
        compared = self._compared(outputs, first, second)
        return self._classified([self._pooled(compared, text) for text in (first, second)])

    def _read(self, vectors: Tensor, real: Tensor) -> Tensor:
        """Run both GRUs: ``[batch, tokens, 2 · units]``, of no meaning where tokens are padding."""
        vectors = self.dropout(vectors)
        # Each text turned round by itself, so that padding comes last in both directions, where it changes nothing.
        count = real.sum(1, keepdim=True)
        place = torch.arange(vectors.shape[1], device=vectors.device).unsqueeze(0)
        turned = torch.where(place < count, count - 1 - place, place).unsqueeze(-1)
        backwards, _ = self.backwards(vectors.gather(1, turned.expand(-1, -1, vectors.shape[-1])))
        backwards = backwards.gather(1, turned.expand(-1, -1, backwards.shape[-1]))
        forwards, _ = self.forwards(vectors)
        return torch.cat([forwards, backwards], dim=-1)

    def _compared(self, outputs: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Compare each token with the other text's mean, weighted by likeness: ``[batch, tokens, 2 · units]``."""
        assert self.compare is not None
        likeness = outputs @ outputs.transpose(1, 2) / outputs.shape[-1] ** 0.5
        other = first.unsqueeze(2) * second.unsqueeze(1) + second.unsqueeze(2) * first.unsqueeze(1)
        # Times the mask once more: where the other text is empty, nothing is like.
        weights = likeness.masked_fill(other == 0, LOWEST).softmax(-1) * other
        like = weights @ outputs
        pairs = torch.cat([outputs, like, outputs - like, outputs * like], dim=-1)
        compared: Tensor = self.compare(self.dropout(pairs)).relu()
        return compared

    def _pooled(self, states: Tensor, real: Tensor) -> Tensor:
        """Take mean and maximum over real tokens, ``[batch, 2 · size]``: zeros where there are none."""
        most = states.masked_fill(real.unsqueeze(-1) == 0, LOWEST).amax(1)
        most = most.masked_fill(real.sum(1, keepdim=True) == 0, 0.0)
        return torch.cat([mean_of_real_tokens(states, real), most], dim=-1)

    def _classified(self, parts: list[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(torch.cat(parts, dim=-1)))
        return logits
