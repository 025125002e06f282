"""Batches of thousands of shapes, without a heap that grows with their number."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_shape_cache(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Keep torch from compiling an activation function for every shape of a batch.

    On a CPU torch hands float32 GELU to oneDNN, which compiles code for each shape and caches it, with thousands of
    small blocks of its assembler. They lie wherever the heap had room: in gaps that activations of megabytes have
    just left, and are to fill again. A gap that something stays in is too small for the next batch, whose
    activations go to the end of the heap, which so grows for as long as there are new shapes. torch's own GELU keeps
    nothing, and takes no longer.

    Layers without modules (:mod:`sharcs.subnetworks.lean`) ask oneDNN for their products whatever the switch says,
    and for few shapes.

    The switch is the process's, not a thread's: for a command that has the process to itself. It stays as it is where
    matrix products may need oneDNN to be quick: in other precisions, or without Intel's MKL.

    Args:
        device: Where the network runs.
        dtype: Of the network's weights.
    """
    if device.type != "cpu" or dtype != torch.float32 or not torch.backends.mkl.is_available():
        yield
        return
    # Not torch.backends.mkldnn.flags, which would set what else there is to defaults of its own.
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before
