"""How long one input alone takes at each width, on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sharcs.evaluation.inputs import model_inputs
from sharcs_runtime.ways import sum_along_ways, ways_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from numpy.typing import NDArray
    from torch import Tensor

    from sharcs.model.text import SharcsForSequenceClassification

TEXTS = 32
WARM_UP = 3


@torch.inference_mode()
def measure_times(
    model: SharcsForSequenceClassification,
    rows: Sized,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
) -> NDArray[np.float64]:
    """Measure the median time of a batch of one, over texts of the rows' lengths.

    Widths take turns on each text, so that whatever else slows the machine down slows all of them.

    Args:
        model: The routed network, in evaluation mode.
        rows: Tokenised inputs.
        collate: Pads rows into a batch.

    Returns:
        Milliseconds of each way, ``[ways]``, in the order of :func:`sharcs_runtime.ways.ways_of`.
    """
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))  # type: ignore[index]
    picked = np.linspace(0, len(by_length) - 1, min(TEXTS, len(by_length))).round().astype(int)
    widths, front = list(model.config.keys), len(model.tail.front)
    measured: list[list[float]] = []
    for number, index in enumerate([*picked[:1].repeat(WARM_UP), *picked]):
        batch = collate([model_inputs(rows[by_length[index]])])  # type: ignore[index]
        batch = {name: value.to(model.device) for name, value in batch.items()}
        # The last one is the encoder's narrowest width first and then on to full width.
        taken = [_milliseconds(model, batch, width) for width in [*widths, None]]
        if number >= WARM_UP:
            measured.append(taken)
    medians = np.median(np.array(measured), axis=0)
    continuation = max(0.0, float(medians[-1] - medians[front]))
    return sum_along_ways(medians[:-1], continuation, ways_of(len(widths)), front)


def _milliseconds(
    model: SharcsForSequenceClassification, batch: dict[str, Tensor], width: float | str | None
) -> float:
    _wait(model)
    start = time.perf_counter()
    if width is not None:
        model(**batch, width=width)
    else:
        trunk = model.run_trunk(**batch)
        for step in (model.config.keys[len(model.tail.front)], 1.0):
            model.run_tail(trunk.hidden, batch["attention_mask"], step)
    _wait(model)
    return 1000 * (time.perf_counter() - start)


def _wait(model: SharcsForSequenceClassification) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
