"""Inputs that wait for a sub-network, with their outputs of layer k, until they fill a batch."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
# What hidden states are kept in: NumPy's arrays, or another library's tensors.
Array = TypeVar("Array", bound=Any)


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


class Pool(Generic[Array]):
    """Inputs of one width from any number of batches.

    Kept are the real tokens alone, copied: a view would hold its whole batch in memory. This one keeps NumPy's
    arrays; for others, override :meth:`select` and :meth:`join`.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._rows = np.empty(0, np.int64)
        self._lengths = np.empty(0, np.int64)
        self._hidden: list[Array] = []

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

    def add(self, rows: Numbers, hidden: Array, real: Flags, chosen: Flags) -> None:
        """Copy some inputs of a batch into the pool.

        Args:
            rows: A number for each input of the batch, ``[batch]``, to know it by.
            hidden: Output of layer k, ``[batch, tokens, hidden]``.
            real: Which tokens are no padding, ``[batch, tokens]``.
            chosen: Which inputs to take, ``[batch]``.
        """
        self._rows = np.concatenate([self._rows, rows[chosen]])
        self._lengths = np.concatenate([self._lengths, real[chosen].sum(axis=1)])
        flat = hidden.reshape(-1, hidden.shape[-1])
        self._hidden.append(self.select(flat, np.flatnonzero(real & chosen[:, None])))

    def take(self, batch_tokens: int) -> tuple[Numbers, Array, Flags]:
        """Take the longest inputs out, as many as make a batch of at most ``batch_tokens``, but one at least.

        Returns:
            Their numbers ``[batch]``, their outputs of layer k, ``[batch, tokens, hidden]``, padded to the longest
            with any values, and which tokens are real, ``[batch, tokens]``.
        """
        order = np.argsort(-self._lengths, kind="stable")
        count = max(1, batch_tokens // max(1, int(self._lengths[order[0]])))
        starts = np.cumsum(self._lengths) - self._lengths
        flat = self.join(self._hidden)
        taken, left = order[:count], np.sort(order[count:])
        positions, real = padded(starts[taken], self._lengths[taken])
        batch = self.select(flat, positions.ravel()).reshape(*positions.shape, -1)
        rows = self._rows[taken]
        self._hidden = []
        if len(left):
            positions, kept = padded(starts[left], self._lengths[left])
            self._hidden.append(self.select(flat, positions[kept]))
        self._rows, self._lengths = self._rows[left], self._lengths[left]
        return rows, batch, real

    def select(self, flat: Array, positions: Numbers) -> Array:
        """Copy rows of ``[tokens, hidden]``."""
        return flat[positions]  # type: ignore[no-any-return]

    def join(self, blocks: list[Array]) -> Array:
        """Lay blocks of ``[tokens, hidden]`` behind one another."""
        return np.concatenate(blocks)  # type: ignore[return-value]
