"""How long one input alone takes at each width, on this machine."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sharcs.evaluation.inputs import model_inputs, token_counts
from sharcs_runtime.ways import sum_along_ways, ways_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Sized

    from numpy.typing import NDArray
    from torch import Tensor

    from sharcs.model.text import SharcsForSequenceClassification
    from sharcs_runtime.onnx import OnnxRunner
    from sharcs_runtime.tokens import Text

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
    widths, front = list(model.config.keys), len(model.tail.front)

    def passes(index: int) -> list[Callable[[], object]]:
        batch = collate([model_inputs(rows[index])])  # type: ignore[index]
        batch = {name: value.to(model.device) for name, value in batch.items()}

        def narrow_and_full() -> None:
            trunk = model.run_trunk(**batch)
            for step in (widths[front], 1.0):
                model.run_tail(trunk.hidden, batch.get("attention_mask"), step)

        return [*(partial(model, **batch, width=width) for width in widths), narrow_and_full]

    return _times_of_ways(token_counts(model, rows), passes, len(widths), front, partial(_wait, model))


def measure_export_times(runner: OnnxRunner, texts: Sequence[Text]) -> NDArray[np.float64]:
    """Measure the same of an export, without its tokenizer.

    Args:
        runner: Of the export.
        texts: Of the lengths of those to come.
    """
    lengths = [len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts]
    return _times_of_ways(
        lengths, lambda index: runner.passes(texts[index]), len(runner.config.names), runner.config.front
    )


def _times_of_ways(
    lengths: Sequence[int],
    passes: Callable[[int], list[Callable[[], object]]],
    networks: int,
    front: int,
    wait: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    """Time inputs of all lengths: at each width, and last at the encoder's narrowest and then at full width."""
    by_length = sorted(range(len(lengths)), key=lambda index: lengths[index])
    picked = np.linspace(0, len(by_length) - 1, min(TEXTS, len(by_length))).round().astype(int)
    measured: list[list[float]] = []
    for number, index in enumerate([*picked[:1].repeat(WARM_UP), *picked]):
        taken = [_milliseconds(run, wait) for run in passes(by_length[index])]
        if number >= WARM_UP:
            measured.append(taken)
    medians = np.median(np.array(measured), axis=0)
    continuation = max(0.0, float(medians[-1] - medians[front]))
    return sum_along_ways(medians[:-1], continuation, ways_of(networks), front)


def _milliseconds(run: Callable[[], object], wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    run()
    wait()
    return 1000 * (time.perf_counter() - start)


def _wait(model: SharcsForSequenceClassification) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
