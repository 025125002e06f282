"""What oneDNN gains over MKL here, in float32 on one thread: products alone, and a step of fine-tuning the encoder.

    python benchmarks/products_speed.py     # nothing else running

The step is the judge's: 32 rows of sst2, forwards and backwards, with each of the two read-outs. Both ways take
turns; medians. Writes benchmarks/results/products.json.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from common import RESULTS, machine, save
from judge import reference
from judge.data import load
from judge.products import SMALLEST, by_onednn
from judge.training import batches

if TYPE_CHECKING:
    from collections.abc import Callable

# Rows, inputs and outputs: of MiniLM's layers at 480 tokens, and around the smallest that oneDNN is asked for.
SHAPES = ((480, 384, 384), (480, 384, 1536), (480, 1536, 384), (64, 256, 128), (32, 128, 64), (32, 384, 2))
ROUNDS, CALLS, STEPS = 7, 50, 20
WAYS = {"MKL": contextlib.nullcontext, "oneDNN": by_onednn}


def in_turns(call: Callable[[], Any], calls: int) -> dict[str, float]:
    """Measure a call each way, in turns: median milliseconds of the processor."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for round_ in range(ROUNDS + 1):
        for name, way in WAYS.items():
            with way():
                start = time.process_time()
                for _ in range(calls):
                    call()
                taken = 1000 * (time.process_time() - start) / calls
            if round_:  # the first is a warm-up
                found[name].append(taken)
    return {name: statistics.median(of) for name, of in found.items()}


def steps(pooling: str) -> dict[str, float]:
    """Measure forward and backward passes of the encoder in training: median milliseconds of one."""
    parts = load("sst2")
    network = reference.new_network(parts, pooling, 0).train()
    labels = torch.from_numpy(parts.train.labels)
    chosen = batches(parts.train, 0, 0)[:STEPS]

    def every() -> None:
        for indices in chosen:
            network.zero_grad()
            F.cross_entropy(network(parts.train.batch(indices)), labels[indices]).backward()

    return {name: milliseconds / STEPS for name, milliseconds in in_turns(every, 1).items()}


def main() -> None:
    torch.set_num_threads(1)
    products = []
    for shape in SHAPES:
        rows, inputs, outputs = shape
        one, other = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        # Small ones stay with MKL both ways.
        taken = in_turns(lambda one=one, other=other: F.linear(one, other), CALLS)  # type: ignore[misc]
        gigaflops = {name: round(2e-6 * rows * inputs * outputs / ms, 1) for name, ms in taken.items()}
        products.append({"shape": shape, "by_onednn": rows * inputs * outputs >= SMALLEST, "gflops": gigaflops})
        print(products[-1], flush=True)
    step = {pooling: steps(pooling) for pooling in ("cls", "mean")}
    print(step)
    save(RESULTS / "products.json", {"products": products, "step_milliseconds": step, "threads": 1, **machine()})


if __name__ == "__main__":
    main()
