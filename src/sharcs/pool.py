"""Inputs that wait for a sub-network, with their outputs of layer k, until they fill a batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Pool", "padded"]

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def padded(starts: Numbers, lengths: Numbers) -> tuple[Numbers, Flags]:
    """Lay out rows that lie one behind the other in a flat array as a rectangle.

    Args:
        starts: Where each row begins, ``[rows]``.
        lengths: How long it is, ``[rows]``.

    Returns:
        Positions in the flat array, ``[rows, longest]``, 0 behind a row's end; and where there is a row.
    """
    offsets = np.arange(lengths.max(), dtype=np.int64)
    real: Flags = offsets < lengths[:, None]
    return np.where(real, starts[:, None] + offsets, 0), real


class Pool:
    """Inputs of one width from any number of batches.

    Kept are the real tokens alone, copied: a view would hold its whole batch in memory.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._rows = np.empty(0, np.int64)
        self._lengths = np.empty(0, np.int64)
        self._hidden: list[Tensor] = []

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self._rows)

    @property
    def tokens(self) -> int:
        """Tokens that are kept."""
        return int(self._lengths.sum())

    @property
    def padded_tokens(self) -> int:
        """Tokens of a batch of all inputs, padding included."""
        return len(self._lengths) * int(self._lengths.max(initial=0))

    def add(self, rows: Numbers, hidden: Tensor, real: Flags, chosen: Flags) -> None:
        """Copy some inputs of a batch into the pool.

        Args:
            rows: A number for each input of the batch, ``[batch]``, to know it by.
            hidden: Output of layer k, ``[batch, tokens, hidden]``.
            real: Which tokens are no padding, ``[batch, tokens]``.
            chosen: Which inputs to take, ``[batch]``.
        """
        self._rows = np.concatenate([self._rows, rows[chosen]])
        self._lengths = np.concatenate([self._lengths, real[chosen].sum(axis=1)])
        self._hidden.append(_select(hidden.flatten(0, 1), np.flatnonzero(real & chosen[:, None])))

    def take(self, batch_tokens: int) -> tuple[Numbers, Tensor, Flags]:
        """Take the longest inputs out, as many as make a batch of at most ``batch_tokens``, but one at least.

        Returns:
            Their numbers ``[batch]``, their outputs of layer k, ``[batch, tokens, hidden]``, padded to the longest
            with any values, and which tokens are real, ``[batch, tokens]``.
        """
        order = np.argsort(-self._lengths, kind="stable")
        count = max(1, batch_tokens // max(1, int(self._lengths[order[0]])))
        starts = np.cumsum(self._lengths) - self._lengths
        flat = torch.cat(self._hidden)
        taken, left = order[:count], np.sort(order[count:])
        positions, real = padded(starts[taken], self._lengths[taken])
        batch = _select(flat, positions.ravel()).unflatten(0, positions.shape)
        rows = self._rows[taken]
        self._hidden = []
        if len(left):
            positions, kept = padded(starts[left], self._lengths[left])
            self._hidden.append(_select(flat, positions[kept]))
        self._rows, self._lengths = self._rows[left], self._lengths[left]
        return rows, batch, real


def _select(flat: Tensor, positions: Numbers) -> Tensor:
    return flat.index_select(0, torch.from_numpy(positions).to(flat.device))
