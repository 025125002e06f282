"""A table of tokens of which training touches what occurs: to update all others takes longer than a small encoder."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from judge.data import Rows


class UsedRows(nn.Module):
    """A table's rows that training reads, as a table of their own, in the place of the whole one.

    Args:
        whole: The table.
        used: The tokens that occur in train, ``[rows]``, int64 and rising.
    """

    def __init__(self, whole: nn.Embedding, used: NDArray[np.int64]) -> None:
        super().__init__()
        self.used = torch.from_numpy(used)
        self.place = torch.full((whole.num_embeddings,), -1)
        self.place[self.used] = torch.arange(len(used))
        self.whole = [whole]  # a list, so that its weight is none of this module's parameters
        padding = whole.padding_idx
        self.padding = None if padding is None or self.place[padding] < 0 else int(self.place[padding])
        self.weight = nn.Parameter(whole.weight.detach()[self.used])

    def forward(self, tokens: Tensor) -> Tensor:
        """Look tokens up: ``[batch, tokens]`` to ``[batch, tokens, hidden]``."""
        place = self.place[tokens]
        found = F.embedding(place.clamp(min=0), self.weight, self.padding)
        if bool((place >= 0).all()):
            return found
        others = self.whole[0].weight.detach()[tokens]
        return torch.where(place.unsqueeze(-1) >= 0, found, others)

    def put_back(self) -> nn.Embedding:
        """Write the rows into the whole table, and return it."""
        self.whole[0].weight.data[self.used] = self.weight.detach()
        return self.whole[0]


@contextlib.contextmanager
def only_used_rows(model: nn.Module, rows: Rows) -> Iterator[None]:
    """Meanwhile let the model's tables of tokens be those of what occurs in the rows, where they are trained.

    Gradients of other rows are zero: all that they miss is AdamW's decay of weights.
    """
    padding = [0]  # of BERT's tokenizer, which batches add
    used = np.unique(np.concatenate([*(np.asarray(ids, np.int64) for ids in rows.ids), padding]))
    swapped: list[tuple[nn.Module, UsedRows]] = []
    for module in list(model.modules()):
        whole = getattr(module, "word_embeddings", None)
        if isinstance(whole, nn.Embedding) and whole.weight.requires_grad:
            small = UsedRows(whole, used)
            module.word_embeddings = small
            swapped.append((module, small))
    try:
        yield
    finally:
        for module, small in swapped:
            module.word_embeddings = small.put_back()
