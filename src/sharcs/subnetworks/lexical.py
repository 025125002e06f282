"""A classifier of the tokens alone: which ones, and which stand side by side; next to nothing of the encoder's cost.

It adds two linear classifiers. One reads the mean of the tokens' vectors, which begin as what the encoder says about
every token alone, rare ones longer (as in model2vec; Arora et al., ICLR 2017). The other adds up numbers, one a
class, for each token and each two neighbours, found by a hash, as in fastText (Joulin et al., arXiv 1607.01759). Of
pairs of texts, the two means are compared, and counted is which of the tokens are in the other text, too; such a
token has numbers of its own, beside those that it has where one text alone has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sharcs.subnetworks.base import keep_initialisation, mean_of_real_tokens
from sharcs.subnetworks.front import TokenSubnetwork, in_both_texts

if TYPE_CHECKING:
    from sharcs.spec import SubnetworkSpec

# Of the hash: large odd numbers, small enough that no product leaves int64.
FIRST, SECOND, SPREAD, PRIME = 31_337, 7_919, 48_271, 2_147_483_647
LONG = 10.0  # tokens by which a text is much longer than the other
RARE = 1e-3  # a of a / (a + share): tokens seldomer than that keep their length


class LexicalSubnetwork(TokenSubnetwork):
    """A classifier of texts, or of pairs of texts; see :class:`~sharcs.subnetworks.front.TokenSubnetwork`."""

    def __init__(self, spec: SubnetworkSpec, labels: int, vocabulary: int) -> None:
        super().__init__(spec, labels, vocabulary)
        self.bag = nn.Embedding(spec.neurons, labels)
        nn.init.zeros_(self.bag.weight)
        # Of a pair: both means, their difference and product, two shares; if matched, how alike they are in two ways.
        read = 4 * spec.hidden + 2 + 2 * self.matches if self.compares else spec.hidden
        self.classifier = nn.Linear(read, labels)
        keep_initialisation(self)

    @torch.no_grad()
    def fill(self, vectors: Tensor, shares: Tensor) -> None:
        """Begin with vectors of the tokens.

        Args:
            vectors: ``[vocabulary, hidden]``.
            shares: Of all tokens of the training rows, ``[vocabulary]``.
        """
        self.vectors.weight.copy_(vectors * (RARE / (RARE + shares)).unsqueeze(1))

    def cost(self) -> tuple[float, float, float]:
        """Count FLOPs: sums over tokens, and of a pair a comparison of every token with every one."""
        head = 2.0 * self.classifier.in_features * self.labels
        return head, 2.0 * self.spec.hidden + 4.0 * self.labels, 1.0 if self.compares else 0.0

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Classify a batch; see :class:`~sharcs.subnetworks.front.TokenSubnetwork`."""
        real, second = self._texts_of(input_ids, attention_mask, token_type_ids)
        vectors = self.vectors(input_ids)
        if second is None:
            read, counted = mean_of_real_tokens(vectors, real), input_ids
        else:
            first = real - second
            shared = in_both_texts(input_ids, first, second)
            read = self._compared(vectors, shared, first, second)
            counted = input_ids + shared * self.vectors.num_embeddings if self.matches else input_ids
        logits: Tensor = self.classifier(self.dropout(read)) + self._counted(counted, real)
        return logits

    def _counted(self, ids: Tensor, real: Tensor) -> Tensor:
        """Add up the numbers of tokens and neighbours, over the root of the tokens' count: ``[batch, labels]``."""
        alone = self.bag(ids * SPREAD % PRIME % self.spec.neurons) * real.unsqueeze(-1)
        beside = (ids[:, :-1] * FIRST + ids[:, 1:] * SECOND) * SPREAD % PRIME % self.spec.neurons
        both = self.bag(beside) * real[:, 1:].unsqueeze(-1)
        total: Tensor = (alone.sum(1) + both.sum(1)) / real.sum(1, keepdim=True).clamp(min=1).to(alone.dtype).sqrt()
        return total

    def _compared(self, vectors: Tensor, shared: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Compare the texts of a pair, of which ``shared`` says what the other text has: ``[batch, features]``."""
        one, other = mean_of_real_tokens(vectors, first), mean_of_real_tokens(vectors, second)
        in_both = shared.unsqueeze(-1).to(vectors.dtype)
        read = [one, other, (one - other).abs(), one * other]
        read += [mean_of_real_tokens(in_both, text) for text in (first, second)]
        if self.matches:
            counts = [text.sum(1, keepdim=True).to(vectors.dtype) for text in (first, second, shared * first)]
            either = (counts[0] + counts[1] - counts[2]).clamp(min=1)
            read += [(counts[0] - counts[1]).abs() / LONG, counts[2] / either]
        return torch.cat(read, dim=-1)
