"""How many tokens a batch should have on this machine: texts a second, of the plain network and ours, in turns.

    python benchmarks/batch_tokens.py --threads 2

Wants the networks that quality_study.py left in the cache, and a machine that does nothing else. Writes
benchmarks/results/speed/batch-tokens.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import quality_study
from common import heading, machine, save
from quality_study import Rows
from sharcs.artifacts import TrainedModel
from sharcs.contestants import PlainEngine, plain_network
from sharcs.engine import InferenceEngine
from sharcs.export import export_model
from sharcs_runtime.engine import PooledEngine
from sharcs_runtime.runner import OnnxRunner
from speed_networks import HALF, LENGTHS_OF, SEED, network, route_to, test_texts
from speed_study import FOLDER

SIZES = (512, 1024, 2048, 4096, 8192)
TURNS, TEXTS = 3, 1024


def opened(trained: TrainedModel, kind: str, threads: int) -> PooledEngine[Any]:
    if kind in ("width-1", "routed"):
        return InferenceEngine(trained.model, trained.tokenizer, width=1.0 if kind == "width-1" else None)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "routed-ort":
            export_model(trained.model, trained.tokenizer, Path(folder) / "onnx")
            return OnnxRunner(Path(folder) / "onnx", threads=threads)
        plain_network(trained.model).save_pretrained(folder)
        trained.tokenizer.save_pretrained(folder)
        return PlainEngine(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=quality_study.CACHE)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    rows = []
    heading("texts", "network", *(f"{size:,} tokens" for size in SIZES))
    for name in LENGTHS_OF:
        trained = network(name, args.cache)
        route_to(trained.model, HALF, Rows(name, SEED).dev)
        texts = test_texts(trained, name)[0][:TEXTS]
        for kind in ("full", "width-1", "routed", "routed-ort"):
            engine = opened(trained, kind, args.threads)
            taken: dict[int, list[float]] = {size: [] for size in SIZES}
            for turn in range(TURNS + 1):
                for size in SIZES:
                    engine.batch_tokens = size
                    start = time.perf_counter()
                    for _ in engine.predict(texts):
                        pass
                    if turn:  # the first warms up
                        taken[size].append(time.perf_counter() - start)
            speeds = {size: len(texts) / statistics.median(of) for size, of in taken.items()}
            rows.append({"set": name, "network": kind, "texts_per_second": speeds})
            print(f"| {name} | {kind} | {' | '.join(f'{speed:.0f}' for speed in speeds.values())} |", flush=True)
    save(FOLDER / "batch-tokens.json", {"rows": rows, **machine()})


if __name__ == "__main__":
    main()
