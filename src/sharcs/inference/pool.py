"""Inputs that wait for a sub-network, as tensors on the network's device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharcs_runtime import pool

if TYPE_CHECKING:
    from sharcs_runtime.pool import Numbers


class Pool(pool.Pool[Tensor]):
    """As :class:`sharcs_runtime.pool.Pool`, of tensors."""

    def select(self, flat: Tensor, positions: Numbers) -> Tensor:
        """Copy rows of ``[tokens, hidden]``."""
        return flat.index_select(0, torch.from_numpy(positions).to(flat.device))

    def join(self, blocks: list[Tensor]) -> Tensor:
        """Lay blocks of ``[tokens, hidden]`` behind one another."""
        return torch.cat(blocks)
